// The attention of any token over the picture, under Concept Attention Map.
import { app } from "../../scripts/app.js";
import { viewUrl } from "./before_after.js";
import { addResultPanel, element, hidePanel, onChange, refit, widgetOf } from "./panel.js";
import { text } from "./texts.js";

const HEIGHT = 340;
const SIDE = 256;
// As in heat_overlay of nodes/ui/pictures.py.
const [HOT, MOST_OPAQUE, DARKENED] = [[255, 31, 20], 0.9, 0.6];
// What a map's tokens depend on.
const TEXTS = ["prompt", "phrase", "end_token"];

/** @param {string} url @returns {Promise<HTMLImageElement>} */
function loaded(url) {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error(text("The picture {url} is gone. Run the node again.", { url })));
    picture.src = url;
  });
}

/** The attention to some tokens together, from the sheet in which their heats stand below each other, each scaled to 0..1.
 * @param {HTMLImageElement} sheet @param {any[]} chips @param {number[]} chosen */
function heatOf(sheet, chips, chosen) {
  const [width, height] = [sheet.width, sheet.height / chips.length];
  const context = element("canvas", "", [], { width, height }).getContext("2d", { willReadFrequently: true });
  const heat = new Float32Array(width * height);
  for (const number of chosen) {
    const { low, high } = chips[number];
    context.drawImage(sheet, 0, number * height, width, height, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    for (let i = 0; i < heat.length; i++) heat[i] += low + ((high - low) * data[4 * i]) / 255;
  }
  return { heat, context, low: Math.min(...heat), high: Math.max(...heat) };
}

/** A picture of heat as the node's own: clear where it is least, red where it is greatest.
 * @param {ReturnType<typeof heatOf>} found */
function drawn({ heat, context, low, high }) {
  const image = context.createImageData(context.canvas.width, context.canvas.height);
  heat.forEach((value, i) => {
    const share = (value - low) / Math.max(high - low, 1e-12);
    image.data.set([...HOT, 255 * MOST_OPAQUE * share * share], 4 * i);
  });
  context.putImageData(image, 0, 0);
  return context.canvas;
}

/** What the colours mean, and the attention of the palest and the reddest pixel. @param {number} low @param {number} high */
function legend(low, high) {
  const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => `rgb(${HOT.join(" ")} / ${MOST_OPAQUE * share * share})`);
  const bar = element("span", "fmn-scale");
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")}), #999`;
  const percent = (/** @type {number} */ share) => `${(100 * share).toPrecision(2)} %`;
  const title = text("A pixel's attention to the marked tokens, where it is least and where it is greatest");
  const ends = [text("low {share} ", { share: percent(low) }), text(" high {share}", { share: percent(high) })];
  return element("div", "fmn-legend", [ends[0], bar, ends[1]], { title });
}

/** @param {HTMLElement} panel @param {any} attention */
async function show(panel, attention) {
  const [picture, sheet] = await Promise.all([loaded(viewUrl(attention.picture)), loaded(viewUrl(attention.sheet))]);
  const scale = SIDE / Math.max(picture.width, picture.height);
  const canvas = element("canvas", "fmn-attention", [], { width: picture.width * scale, height: picture.height * scale });
  const scales = element("div");
  const chosen = new Set(attention.chips.flatMap((/** @type {any} */ chip, /** @type {number} */ k) => (chip.lit ? [k] : [])));
  const chips = attention.chips.map((/** @type {any} */ chip) => {
    const title = text("attention {share} %", { share: (100 * chip.mass).toFixed(1) });
    return element("button", "fmn-chip", [chip.text], { type: "button", title });
  });
  const draw = () => {
    const context = canvas.getContext("2d");
    context.filter = `grayscale(1) brightness(${DARKENED})`;
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    context.filter = "none";
    const found = heatOf(sheet, attention.chips, [...chosen]);
    if (chosen.size) context.drawImage(drawn(found), 0, 0, canvas.width, canvas.height);
    scales.replaceChildren(...(chosen.size ? [legend(found.low, found.high)] : []));
    chips.forEach((/** @type {HTMLElement} */ chip, /** @type {number} */ k) => chip.classList.toggle("lit", chosen.has(k)));
  };
  chips.forEach((/** @type {HTMLElement} */ chip, /** @type {number} */ k) => {
    chip.onclick = () => {
      if (!chosen.delete(k)) chosen.add(k);
      draw();
    };
  });
  draw();
  panel.replaceChildren(canvas, scales, element("div", "fmn-chips", chips));
}

/** One row of tokens in the node: those of the map, or those of a text that is not the map's any more.
 * @param {any} node @param {HTMLElement} panel */
function chooseRow(node, panel) {
  const texts = () => TEXTS.map((name) => String(widgetOf(node, name)?.value)).join("\n");
  let mapped = "";
  const choose = () => {
    const current = !panel.hidden && texts() === mapped;
    panel.classList.toggle("fmn-outdated", !current);
    hidePanel(node, "tokens", current);
    refit(node);
  };
  for (const name of TEXTS) if (widgetOf(node, name)) onChange(widgetOf(node, name), choose);
  return () => {
    mapped = texts();
    choose();
  };
}

app.registerExtension({
  name: "forget-me-not.attention-overlay",
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass !== "FMN_ConceptAttentionMap") return;
    /** @type {() => void} */
    let current = () => {};
    const panel = addResultPanel(node, "attention", HEIGHT, (panel, output) => {
      const [attention] = output.fmn_attention ?? [];
      if (!attention) return false;
      // After the panel has been shown.
      setTimeout(current);
      show(panel, attention).catch((error) => panel.replaceChildren(element("div", "fmn-warning", [String(error.message)])));
      return true;
    });
    current = chooseRow(node, panel);
  },
});
