// The report of a node that has run, in the node.
import { app } from "../../scripts/app.js";
import { addResultPanel, element } from "./panel.js";

const HEIGHT = 120;
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

app.registerExtension({
  name: "forget-me-not.report-panel",
  nodeCreated(/** @type {any} */ node) {
    if (!NODES.has(node.comfyClass)) return;
    addResultPanel(node, "report", HEIGHT, (panel, output) => {
      const text = (output.text ?? []).join("\n");
      // A verdict ends with an empty line; the figures below it are folded.
      const [verdict, ...figures] = text.split("\n\n");
      const rest = figures.join("\n\n");
      const folded = rest ? [element("details", "fmn-report fmn-quiet", [element("summary", "", ["figures"]), rest])] : [];
      panel.replaceChildren(element("div", "fmn-report", [verdict]), ...folded);
      return text !== "";
    });
  },
});
