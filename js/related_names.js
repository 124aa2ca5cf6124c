// Names that a training offers: synonyms to forget too and compounds to keep, as chips that write a line when clicked.
import { app } from "../../scripts/app.js";
import { addResultPanel, element, onChange, widgetOf } from "./panel.js";
import { text } from "./texts.js";

const HEIGHT = 112;
// Node -> its widgets that a click adds a line to: one for what is forgotten, one for what is kept.
/** @type {Record<string, {forget: string, keep: string}>} */
const NODES = {
  FMN_ForgetConcept: { forget: "forget", keep: "keep" },
  FMN_TrainForgetPatch: { forget: "phrase", keep: "preserve_prompts" },
};
// Group of the node's output, the widget that its names go to, and what the group is called.
/** @type {{group: string, target: "forget" | "keep", title: () => string}[]} */
const GROUPS = [
  { group: "synonyms", target: "forget", title: () => text("Acts like it. Click to forget it too:") },
  { group: "compounds", target: "keep", title: () => text("Named with it, but another thing. Click to keep it:") },
];

/** @param {any} widget @returns {string[]} its lines, trimmed and in lower case */
function linesOf(widget) {
  return String(widget.value ?? "")
    .split("\n")
    .map((line) => line.trim().toLowerCase());
}

/** @param {any} widget @param {string} name */
function addLine(widget, name) {
  const before = String(widget.value ?? "").trimEnd();
  widget.value = before ? `${before}\n${name}` : name;
  widget.callback?.(widget.value);
}

/** @param {any} widget @param {string} name */
function chip(widget, name) {
  const button = element("button", "fmn-chip fmn-add", [`+ ${name}`], { type: "button" });
  button.onclick = () => {
    if (!linesOf(widget).includes(name.toLowerCase())) addLine(widget, name);
    mark(button, widget, name);
  };
  mark(button, widget, name);
  return button;
}

/** A chip whose line is there is done. @param {any} button @param {any} widget @param {string} name */
function mark(button, widget, name) {
  const added = linesOf(widget).includes(name.toLowerCase());
  button.disabled = added;
  button.textContent = `${added ? "✓" : "+"} ${name}`;
}

app.registerExtension({
  name: "forget-me-not.related-names",
  nodeCreated(/** @type {any} */ node) {
    const widgets = NODES[node.comfyClass];
    if (!widgets) return;
    /** @type {(() => void)[]} */
    let marks = [];
    for (const name of Object.values(widgets)) onChange(widgetOf(node, name), () => marks.forEach((again) => again()));
    addResultPanel(node, "related", HEIGHT, (panel, output) => {
      const offered = output.fmn_related?.[0];
      if (!offered) return false;
      marks = [];
      const rows = GROUPS.filter(({ group }) => offered[group]?.length).map(({ group, target, title }) => {
        const widget = widgetOf(node, widgets[target]);
        const chips = offered[group].map((/** @type {string} */ name) => {
          const button = chip(widget, name);
          marks.push(() => mark(button, widget, name));
          return button;
        });
        return element("div", "", [element("div", "fmn-quiet", [title()]), ...chips]);
      });
      panel.replaceChildren(...rows);
      return rows.length > 0;
    });
  },
});
