// A training while it runs: curves, time left, a preview, and a button that ends it and keeps what it has learned.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPanel, ask, element } from "./panel.js";
import { text } from "./texts.js";

const NODES = ["FMN_TrainForgetPatch", "FMN_InvertConcept", "FMN_ConceptCorrection", "FMN_AttackForgetPatch"];
const EVENT = "forget_me_not.monitor";
const HEIGHT = 190;
const COLOURS = ["#d64541", "#3478c8", "#2f9e63", "#b9770e"];
// The server's names of curves.
/** @type {Record<string, () => string>} */
const CURVES = {
  loss: () => text("loss"),
  "attention mass": () => text("attention mass"),
  target: () => text("target"),
  drift: () => text("drift"),
};
const SVG = "http://www.w3.org/2000/svg";
/** @type {WeakMap<any, HTMLElement>} */
const monitors = new WeakMap();

/** @param {string} tag @param {Record<string, any>} attributes */
function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}

/** Every curve over the steps, scaled to its own maximum; attention mass and its target share one scale.
 * @param {any} state */
function plot(state) {
  const [width, height] = [300, 90];
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", style: "width:100%;height:90px" });
  const curves = Object.entries(state.curves);
  const top = (/** @type {string} */ name) => Math.max(1e-30, ...(state.curves[name] ?? []).map((/** @type {number[]} */ p) => p[1]));
  const mass = Math.max(top("attention mass"), top("target"));
  curves.forEach(([name, points], k) => {
    const scale = ["attention mass", "target"].includes(name) ? mass : top(name);
    const line = /** @type {number[][]} */ (points).map(([x, y]) => `${(width * x) / Math.max(1, state.total)},${height - (height - 4) * (y / scale)}`);
    const dashes = name === "target" ? { "stroke-dasharray": "4 3" } : {};
    const style = { fill: "none", stroke: COLOURS[k % COLOURS.length], "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" };
    picture.append(svg("polyline", { points: line.join(" "), ...style, ...dashes }));
  });
  const legend = curves.map(([name, points], k) => {
    const last = /** @type {number[][]} */ (points).at(-1)?.[1] ?? 0;
    const entry = element("span", "", [`${CURVES[name]?.() ?? name} ${last.toPrecision(3)} `]);
    entry.style.color = COLOURS[k % COLOURS.length];
    return entry;
  });
  return element("div", "", [picture, element("div", "", legend)]);
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds >= 90) return text("{minutes} min", { minutes: Math.round(seconds / 60) });
  return text("{seconds} s", { seconds: Math.round(seconds) });
}

/** @param {any} node @param {any} state */
function show(node, state) {
  const panel = monitors.get(node);
  if (!panel) return;
  const { title, step, total } = state;
  const left = state.running && step ? text(", {time} left", { time: duration(state.left) }) : "";
  const ended = state.running ? "" : text(", ended");
  const line = element("div", "fmn-status", [text("{title}: step {step} of {total}", { title, step, total }) + left + ended]);
  const stop = element("button", "fmn-stop", [text("Stop and keep")], {
    disabled: !state.running,
    title: text("Ends the training now and keeps the patch of this moment. The host's own Cancel discards it."),
  });
  stop.onclick = async () => {
    stop.disabled = true;
    await ask("stop", { node: state.node });
  };
  const picture = String(state.preview ?? "").startsWith("data:image/jpeg;base64,")
    ? [element("img", "fmn-preview", [], { src: state.preview, alt: text("what the model still draws"), style: "height:48px;float:right" })]
    : [];
  panel.replaceChildren(...picture, line, plot(state), stop);
}

/** The node that a message is about, also inside subgraphs, whose nodes have ids such as "3:7".
 * @param {string} id @returns {any} */
function nodeOf(id) {
  let graph = /** @type {any} */ (app).graph;
  const parts = String(id).split(":");
  for (const part of parts.slice(0, -1)) graph = graph?.getNodeById(Number(part))?.subgraph;
  return graph?.getNodeById(Number(parts.at(-1)));
}

/** @param {any} state */
function receive(state) {
  const node = nodeOf(state.node);
  if (node && NODES.includes(node.comfyClass)) show(node, state);
}

/** What runs while the page is loaded. What has ended may have been a node of the same number in another workflow. */
async function restore() {
  for (const state of Object.values(await ask("monitor"))) if (state.running) receive(state);
}

app.registerExtension({
  name: "forget-me-not.live-monitor",
  setup() {
    api.addEventListener(/** @type {any} */ (EVENT), (/** @type {any} */ event) => receive(event.detail));
  },
  nodeCreated(/** @type {any} */ node) {
    if (!NODES.includes(node.comfyClass)) return;
    // Its height is there before a run: a node that grew over its neighbour would take the button out of reach.
    const panel = addPanel(node, "monitor", () => HEIGHT);
    panel.append(element("div", "fmn-quiet", [text("Curves, time left and Stop and keep, while it runs.")]));
    monitors.set(node, panel);
  },
  async afterConfigureGraph() {
    await restore().catch((error) => console.warn("Forget-Me-Not: no monitor yet.", error));
  },
});
