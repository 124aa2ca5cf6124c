// The report of a node that has run, in the node.
import { app } from "../../scripts/app.js";
import { addResultPanel, element, refit } from "./panel.js";
import { text } from "./texts.js";

const HEIGHT = 120;
// Of a verdict whose figures are folded, and where they are open.
const VERDICT_HEIGHT = 60;
const OPEN_HEIGHT = 220;
const NODES = new Set([
  "FMN_ForgetConcept",
  "FMN_TrainForgetPatch",
  "FMN_ConceptCorrection",
  "FMN_InvertConcept",
  "FMN_AttackForgetPatch",
  "FMN_ForgetPatchInfo",
  "FMN_SaveForgetPatch",
  "FMN_MergeForgetPatches",
  "FMN_ShrinkForgetPatch",
  "FMN_InstallPatchEmbedding",
  "FMN_ClearForgetCache",
]);

/** @param {HTMLElement} panel */
function heightOf(panel) {
  const details = panel.querySelector("details");
  return details ? (details.open ? OPEN_HEIGHT : VERDICT_HEIGHT) : HEIGHT;
}

app.registerExtension({
  name: "forget-me-not.report-panel",
  nodeCreated(/** @type {any} */ node) {
    if (!NODES.has(node.comfyClass)) return;
    addResultPanel(node, "report", heightOf, (panel, output) => {
      const report = (output.text ?? []).join("\n");
      // A verdict ends with an empty line; the figures below it are folded.
      const [verdict, ...figures] = report.split("\n\n");
      const rest = figures.join("\n\n");
      const summary = element("summary", "", [text("figures")]);
      const folded = rest ? [element("details", "fmn-report fmn-quiet", [summary, rest], { ontoggle: () => refit(node) })] : [];
      panel.replaceChildren(element("div", "fmn-report", [verdict]), ...folded);
      return report !== "";
    });
  },
});
