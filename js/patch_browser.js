// Choose a patch by its picture and by what it says of itself. Everything a file says is shown as text.
import { app } from "../../scripts/app.js";
import { ask, element, widgetOf } from "./panel.js";

const STYLE = `
.fmn-dialog { width: min(900px, 90vw); max-height: 80vh; padding: 12px; font: 13px/1.4 sans-serif; border-radius: 8px;
  color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535); border: 1px solid var(--border-color, #4e4e4e); }
.fmn-dialog::backdrop { background: rgba(0, 0, 0, 0.5); }
.fmn-dialog input { width: 100%; box-sizing: border-box; margin: 8px 0; padding: 4px 8px; font: inherit;
  color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e); }
.fmn-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 8px; }
.fmn-card { text-align: left; overflow-wrap: anywhere; padding: 8px; border-radius: 6px; background: var(--comfy-input-bg, #222);
  border: 1px solid var(--border-color, #4e4e4e); color: inherit; font: inherit; cursor: pointer; }
.fmn-card.other-base > :not(.fmn-warning), .fmn-card.broken > :not(.fmn-warning) { opacity: 0.5; filter: grayscale(1); }
.fmn-card.broken { cursor: default; }
.fmn-card img, .fmn-blank { width: 100%; height: 110px; object-fit: cover; border-radius: 4px; background: #555; }
`;
const FIGURES = { held_out_missed: "target missed", held_out_drift: "others moved", preserve_drift: "others moved", shrink_residual: "lost by shrinking" };

/** @param {any} patch */
function figures(patch) {
  const known = Object.entries(patch.figures ?? {}).filter(([name]) => name in FIGURES);
  return known.map(([name, value]) => `${FIGURES[/** @type {keyof FIGURES} */ (name)]} ${Number(value).toPrecision(2)}`).join(", ");
}

/** @param {any} patch @param {() => void} choose */
function card(patch, choose) {
  const picture = String(patch.preview ?? "").startsWith("data:image/jpeg;base64,")
    ? element("img", "", [], { src: patch.preview, alt: "" })
    : element("div", "fmn-blank");
  const name = patch.name.split("/").at(-1).replace(/\.safetensors$/, "");
  const lines = [
    element("b", "", [patch.title || name]),
    patch.error ? element("div", "fmn-warning", [patch.error]) : element("div", "", [`forgets: ${patch.forgets}`]),
    element("div", "fmn-quiet", [[patch.base, patch.method].filter(Boolean).join(", ")]),
    element("div", "fmn-quiet", [figures(patch)]),
    element("div", "fmn-quiet", [[patch.author, patch.licence].filter(Boolean).join(", ")]),
    element("div", "fmn-quiet", [`${name}, ${patch.date.replace("T", " ").slice(0, 16)}, ${Math.round(patch.bytes / 1000)} kB`]),
  ];
  if (patch.mismatch) lines.push(element("div", "fmn-warning", [`another base: ${patch.mismatch}`]));
  const state = patch.error ? " broken" : patch.mismatch ? " other-base" : "";
  const made = element("button", `fmn-card${state}`, [picture, ...lines], { type: "button", disabled: Boolean(patch.error) });
  made.onclick = choose;
  return made;
}

/** @param {any} node @param {any} widget */
async function browse(node, widget) {
  const { patches } = await ask(`patches?node=${encodeURIComponent(String(node.id))}`);
  const cards = element("div", "fmn-cards");
  const search = element("input", "", [], { type: "search", placeholder: "Search name, concept, author" });
  const close = element("button", "", ["Close"], { type: "button" });
  const dialog = element("dialog", "fmn-dialog", [element("style", "", [STYLE]), element("b", "", ["Forget patches "]), close, search, cards]);
  const fill = () => {
    const wanted = search.value.toLowerCase();
    const found = patches.filter((/** @type {any} */ p) =>
      [p.name, p.title, p.forgets, p.author].some((text) => String(text ?? "").toLowerCase().includes(wanted)),
    );
    const none = element("div", "fmn-quiet", ["No patch here. Train Forget Patch saves into models/loras/forget_me_not."]);
    cards.replaceChildren(...(found.length ? found.map((/** @type {any} */ p) => card(p, () => choose(p.name))) : [none]));
  };
  const choose = (/** @type {string} */ name) => {
    const values = widget.options?.values;
    if (Array.isArray(values) && !values.includes(name)) values.push(name);
    widget.value = name;
    widget.callback?.(name);
    node.setDirtyCanvas?.(true, true);
    dialog.close();
  };
  search.oninput = fill;
  close.onclick = () => dialog.close();
  dialog.onclose = () => dialog.remove();
  fill();
  document.body.append(dialog);
  dialog.showModal();
}

app.registerExtension({
  name: "forget-me-not.patch-browser",
  nodeCreated(/** @type {any} */ node) {
    const widget = widgetOf(node, "patch_file");
    if (!widget || !String(node.comfyClass).startsWith("FMN_")) return;
    const button = node.addWidget("button", "browse patches", null, () => browse(node, widget), { serialize: false });
    button.serialize = false;
  },
});
