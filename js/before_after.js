// A slider between pictures before and after, under the nodes that draw both.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addResultPanel, element } from "./panel.js";
import { text } from "./texts.js";

const HEIGHT = 310;
const WIDTH = 320;
const NODES = new Set(["FMN_ForgetConcept", "FMN_Compare", "FMN_ForgetReport"]);
// Percent of the width that a label needs.
const EDGE = 25;
const STYLE = `
.fmn-compared { display: flex; flex-direction: column; height: 100%; gap: 2px; }
.fmn-frame { flex: 1 1 240px; min-height: 60px; container-type: size; display: grid; place-items: center; }
.fmn-stage { position: relative; width: min(100cqw, 100cqh * var(--ratio, 1)); aspect-ratio: var(--ratio, 1); overflow: hidden;
  cursor: ew-resize; touch-action: none; user-select: none; }
.fmn-stage img { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.fmn-edge { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff; pointer-events: none;
  box-shadow: 0 0 2px #000; }
.fmn-label { position: absolute; top: 4px; padding: 0 5px; border-radius: 4px; color: #fff; background: rgb(0 0 0 / 0.65); pointer-events: none; }
.fmn-label.before { left: 4px; }
.fmn-label.after { right: 4px; }
.fmn-slider { width: 100%; margin: 0; }
.fmn-row { display: flex; flex: none; justify-content: center; align-items: center; gap: 6px; }
`;

/** @param {{filename: string, subfolder: string, type: string}} file */
export function viewUrl(file) {
  return api.apiURL(`/view?${new URLSearchParams({ filename: file.filename, subfolder: file.subfolder, type: file.type })}`);
}

/** Two pictures on each other; a drag across them, or the slider, moves the edge between them.
 * @param {any} under @param {any} over @param {any} slider */
function stageOf(under, over, slider) {
  const left = element("span", "fmn-label before", [text("before")]);
  const right = element("span", "fmn-label after", [text("after")]);
  const edge = element("div", "fmn-edge");
  const stage = element("div", "fmn-stage", [under, over, edge, left, right]);
  const cut = () => {
    const share = Number(slider.value);
    over.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    edge.style.left = `${share}%`;
    left.hidden = share < EDGE;
    right.hidden = share > 100 - EDGE;
  };
  const move = (/** @type {PointerEvent} */ event) => {
    const box = stage.getBoundingClientRect();
    slider.value = String((100 * (event.clientX - box.left)) / box.width);
    cut();
  };
  stage.onpointerdown = (/** @type {PointerEvent} */ event) => {
    if (event.button !== 0) return;
    // The canvas and Nodes 2.0 would move the node.
    event.stopPropagation();
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    move(event);
  };
  stage.onpointermove = (/** @type {PointerEvent} */ event) => {
    if (!stage.hasPointerCapture(event.pointerId)) return;
    event.stopPropagation();
    move(event);
  };
  over.onload = () => stage.style.setProperty("--ratio", String(over.naturalWidth / over.naturalHeight));
  slider.oninput = cut;
  cut();
  return stage;
}

/** @param {HTMLElement} panel @param {any[]} before @param {any[]} after */
function show(panel, before, after) {
  let number = 0;
  const under = element("img", "fmn-after", [], { alt: text("after"), draggable: false });
  const over = element("img", "fmn-before", [], { alt: text("before"), draggable: false });
  const slider = element("input", "fmn-slider", [], { type: "range", min: "0", max: "100", step: "any", value: "50" });
  const label = element("span", "fmn-quiet");
  const turn = (/** @type {number} */ step) => {
    number = (number + step + before.length) % before.length;
    under.src = viewUrl(after[number]);
    over.src = viewUrl(before[number]);
    label.textContent = text("{number} of {count}", { number: number + 1, count: before.length });
  };
  const button = (/** @type {string} */ arrow, /** @type {string} */ title, /** @type {number} */ step) =>
    element("button", "", [arrow], { type: "button", title, onclick: () => turn(step), disabled: before.length < 2 });
  const [previous, next] = [button("<", text("previous picture"), -1), button(">", text("next picture"), 1)];
  const row = element("div", "fmn-row", [previous, label, next]);
  const frame = element("div", "fmn-frame", [stageOf(under, over, slider)]);
  panel.replaceChildren(element("div", "fmn-compared", [element("style", "", [STYLE]), frame, slider, row]));
  turn(0);
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
