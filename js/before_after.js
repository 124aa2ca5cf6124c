// A slider between pictures before and after, under the nodes that draw both.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addResultPanel, element } from "./panel.js";

const HEIGHT = 310;
const WIDTH = 320;
const NODES = new Set(["FMN_ForgetConcept", "FMN_Compare", "FMN_ForgetReport"]);

/** @param {{filename: string, subfolder: string, type: string}} file */
export function viewUrl(file) {
  return api.apiURL(`/view?${new URLSearchParams({ filename: file.filename, subfolder: file.subfolder, type: file.type })}`);
}

/** @param {HTMLElement} panel @param {any[]} before @param {any[]} after */
function show(panel, before, after) {
  let number = 0;
  const style = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain";
  const under = element("img", "fmn-after", [], { alt: "after", style });
  const over = element("img", "fmn-before", [], { alt: "before", style });
  const stage = element("div", "", [under, over], { style: "position:relative;height:250px" });
  const slider = element("input", "fmn-slider", [], { type: "range", min: "0", max: "100", value: "50", style: "width:100%" });
  const label = element("span", "fmn-quiet");
  const cut = () => (over.style.clipPath = `inset(0 ${100 - Number(slider.value)}% 0 0)`);
  const turn = (/** @type {number} */ step) => {
    number = (number + step + before.length) % before.length;
    under.src = viewUrl(after[number]);
    over.src = viewUrl(before[number]);
    label.textContent = ` left of the slider before, right after; ${number + 1} of ${before.length} `;
  };
  const button = (/** @type {string} */ text, /** @type {number} */ step) =>
    element("button", "", [text], { type: "button", onclick: () => turn(step), disabled: before.length < 2 });
  slider.oninput = cut;
  turn(0);
  cut();
  panel.replaceChildren(stage, slider, button("<", -1), label, button(">", 1));
}

app.registerExtension({
  name: "forget-me-not.before-after",
  nodeCreated(/** @type {any} */ node) {
    if (!NODES.has(node.comfyClass)) return;
    addResultPanel(node, "before-after", HEIGHT, (panel, output) => {
      const [before, after] = [output.fmn_before ?? [], output.fmn_after ?? []];
      if (!before.length || before.length !== after.length) return false;
      node.size[0] = Math.max(node.size[0], WIDTH);
      show(panel, before, after);
      return true;
    });
  },
});
