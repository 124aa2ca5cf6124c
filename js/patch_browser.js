// Choose a patch by its picture and by what it says of itself. Everything a file says is shown as text.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addStyle, ask, element, runOf, widgetOf } from "./panel.js";
import { text } from "./texts.js";

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
const SAVED = "forget_me_not.saved";
// Inputs of loaders that name a model's file; host.model_file of the server knows their folders.
const FILES = ["ckpt_name", "unet_name"];
const FIGURES = {
  held_out_missed: () => text("target missed"),
  held_out_drift: () => text("others moved"),
  preserve_drift: () => text("others moved"),
  shrink_residual: () => text("lost by shrinking"),
};

/** @param {any} patch */
function figures(patch) {
  const known = Object.entries(patch.figures ?? {}).filter(([name]) => name in FIGURES);
  return known.map(([name, value]) => `${FIGURES[/** @type {keyof FIGURES} */ (name)]()} ${Number(value).toPrecision(2)}`).join(", ");
}

/** @param {any} patch @param {() => void} choose */
function card(patch, choose) {
  const picture = String(patch.preview ?? "").startsWith("data:image/jpeg;base64,")
    ? element("img", "", [], { src: patch.preview, alt: "" })
    : element("div", "fmn-blank");
  const name = patch.name.split("/").at(-1).replace(/\.safetensors$/, "");
  const forgets = text("forgets: {concepts}", { concepts: patch.forgets });
  const lines = [
    element("b", "", [patch.title || name]),
    patch.error ? element("div", "fmn-warning", [patch.error]) : element("div", "", [forgets]),
    element("div", "fmn-quiet", [[patch.base, patch.method].filter(Boolean).join(", ")]),
    element("div", "fmn-quiet", [figures(patch)]),
    element("div", "fmn-quiet", [[patch.author, patch.licence].filter(Boolean).join(", ")]),
    element("div", "fmn-quiet", [`${name}, ${patch.date.replace("T", " ").slice(0, 16)}, ${Math.round(patch.bytes / 1000)} kB`]),
  ];
  const otherBase = text("another base: {difference}", { difference: patch.mismatch });
  if (patch.mismatch) lines.push(element("div", "fmn-warning", [otherBase]));
  const state = patch.error ? " broken" : patch.mismatch ? " other-base" : "";
  const made = element("button", `fmn-card${state}`, [picture, ...lines], { type: "button", disabled: Boolean(patch.error) });
  made.onclick = choose;
  return made;
}

/** Where a node's MODEL is loaded: the input of a loader with its file, or the miniature; nothing where that cannot be told, as
 * behind a merge of two models.
 * @param {any} node @returns {{loader?: string, file?: string}} */
function modelOf(node) {
  const seen = new Set();
  for (let at = node; at && !seen.has(at); ) {
    seen.add(at);
    if (at.comfyClass === "FMN_LoadMiniature") return { loader: "miniature" };
    const loader = FILES.find((name) => widgetOf(at, name));
    const connected = (at.inputs ?? []).some((/** @type {any} */ input) => input.name === loader && input.link != null);
    if (loader) return connected ? {} : { loader, file: String(widgetOf(at, loader).value) };
    const models = (at.inputs ?? []).flatMap((/** @type {any} */ input, /** @type {number} */ k) =>
      input.type === "MODEL" || at.type === "Reroute" ? [k] : [],
    );
    at = models.length === 1 ? at.getInputNode?.(models[0]) : null;
  }
  return {};
}

/** Adds a file that is newer than the page to a node's list of patches, if it has one. @param {any} node @param {string} name */
function offer(node, name) {
  const widget = patchList(node);
  const values = widget?.options?.values;
  if (!Array.isArray(values) || values.includes(name)) return;
  widget.options.values = [...values, name];
  // Nodes 2.0 reads the list again once the widget has been away.
  const place = node.widgets.indexOf(widget);
  node.widgets.splice(place, 1);
  node.widgets.splice(place, 0, widget);
}

/** @param {any} graph @returns {any[]} its nodes, and those of its subgraphs */
function nodesOf(graph) {
  return (graph?.nodes ?? []).flatMap((/** @type {any} */ node) => [node, ...nodesOf(node.subgraph)]);
}

/** @param {any} node @returns {any} its list of patches, if it has one */
function patchList(node) {
  return String(node.comfyClass).startsWith("FMN_") ? widgetOf(node, "patch_file") : undefined;
}

/** Patches that were saved since the page was loaded, which nodes that are added later shall list too. */
const saved = new Set();

/** @param {string} name */
function remember(name) {
  saved.add(name);
  const { rootGraph, graph } = /** @type {any} */ (app);
  for (const node of nodesOf(rootGraph ?? graph)) offer(node, name);
}

/** @param {any} node @param {any} widget */
async function browse(node, widget) {
  const question = new URLSearchParams({ ...runOf(node), ...modelOf(node) });
  const { patches } = await ask(`patches?${question}`);
  for (const { name, error } of patches) if (!error) remember(name);
  addStyle();
  const cards = element("div", "fmn-cards");
  const search = element("input", "", [], { type: "search", placeholder: text("Search name, concept, author") });
  const close = element("button", "", [text("Close")], { type: "button" });
  const heading = element("b", "", [text("Forget patches ")]);
  const dialog = element("dialog", "fmn-dialog", [element("style", "", [STYLE]), heading, close, search, cards]);
  const fill = () => {
    const wanted = search.value.toLowerCase();
    const found = patches.filter((/** @type {any} */ p) =>
      [p.name, p.title, p.forgets, p.author].some((said) => String(said ?? "").toLowerCase().includes(wanted)),
    );
    const none = element("div", "fmn-quiet", [text("No patch here. Train Forget Patch saves into models/loras/forget_me_not.")]);
    cards.replaceChildren(...(found.length ? found.map((/** @type {any} */ p) => card(p, () => choose(p.name))) : [none]));
  };
  const choose = (/** @type {string} */ name) => {
    offer(node, name);
    widget.value = name;
    widget.callback?.(name);
    node.setDirtyCanvas?.(true, true);
    dialog.close();
  };
  search.oninput = fill;
  close.onclick = () => dialog.close();
  dialog.onkeydown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape") return;
    // A search field takes the key to empty itself, and the page takes it for its own shortcuts.
    event.preventDefault();
    event.stopPropagation();
    dialog.close();
  };
  dialog.onclose = () => dialog.remove();
  fill();
  document.body.append(dialog);
  dialog.showModal();
  search.focus();
}

app.registerExtension({
  name: "forget-me-not.patch-browser",
  setup() {
    api.addEventListener(/** @type {any} */ (SAVED), (/** @type {any} */ event) => remember(event.detail.name));
  },
  nodeCreated(/** @type {any} */ node) {
    const widget = patchList(node);
    if (!widget) return;
    for (const name of saved) offer(node, name);
    const button = node.addWidget("button", text("browse patches"), null, () => browse(node, widget), { serialize: false });
    button.serialize = false;
  },
});
