// The attention of any token over the picture, under Concept Attention Map.
import { app } from "../../scripts/app.js";
import { viewUrl } from "./before_after.js";
import { addResultPanel, element } from "./panel.js";

const HEIGHT = 340;
const SIDE = 256;

/** @param {string} url @returns {Promise<HTMLImageElement>} */
function loaded(url) {
  return new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error(`The picture ${url} is gone. Run the node again.`));
    picture.src = url;
  });
}

/** The mean heat of some tokens, 0..1, from the sheet in which the heats stand below each other.
 * @param {HTMLImageElement} sheet @param {number} count @param {number[]} chosen */
function heatOf(sheet, count, chosen) {
  const [width, height] = [sheet.width, sheet.height / count];
  const canvas = element("canvas", "", [], { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const sum = new Float32Array(width * height);
  for (const number of chosen) {
    context.drawImage(sheet, 0, number * height, width, height, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    for (let i = 0; i < sum.length; i++) sum[i] += data[4 * i] / 255 / chosen.length;
  }
  const image = context.createImageData(width, height);
  sum.forEach((value, i) => image.data.set([255, 30, 30, 220 * value], 4 * i));
  context.putImageData(image, 0, 0);
  return canvas;
}

/** @param {HTMLElement} panel @param {any} attention */
async function show(panel, attention) {
  const [picture, sheet] = await Promise.all([loaded(viewUrl(attention.picture)), loaded(viewUrl(attention.sheet))]);
  const scale = SIDE / Math.max(picture.width, picture.height);
  const canvas = element("canvas", "fmn-attention", [], { width: picture.width * scale, height: picture.height * scale });
  const chosen = new Set(attention.chips.flatMap((/** @type {any} */ chip, /** @type {number} */ k) => (chip.lit ? [k] : [])));
  const chips = attention.chips.map((/** @type {any} */ chip) =>
    element("button", "fmn-chip", [chip.text], { type: "button", title: `attention ${(100 * chip.mass).toFixed(1)} %` }),
  );
  const draw = () => {
    const context = canvas.getContext("2d");
    context.filter = "grayscale(1)";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    context.filter = "none";
    if (chosen.size) context.drawImage(heatOf(sheet, chips.length, [...chosen]), 0, 0, canvas.width, canvas.height);
    chips.forEach((/** @type {HTMLElement} */ chip, /** @type {number} */ k) => chip.classList.toggle("lit", chosen.has(k)));
  };
  chips.forEach((/** @type {HTMLElement} */ chip, /** @type {number} */ k) => {
    chip.onclick = () => {
      if (!chosen.delete(k)) chosen.add(k);
      draw();
    };
  });
  draw();
  panel.replaceChildren(canvas, element("div", "", chips));
}

app.registerExtension({
  name: "forget-me-not.attention-overlay",
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass !== "FMN_ConceptAttentionMap") return;
    addResultPanel(node, "attention", HEIGHT, (panel, output) => {
      const [attention] = output.fmn_attention ?? [];
      if (!attention) return false;
      show(panel, attention).catch((error) => panel.replaceChildren(element("div", "fmn-warning", [String(error.message)])));
      return true;
    });
  },
});
