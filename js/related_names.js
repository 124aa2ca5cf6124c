// Names that a training offers: synonyms to forget too and compounds to keep, as chips that write a line when clicked.
import { app } from "../../scripts/app.js";
import { addResultPanel, element, onChange, widgetOf } from "./panel.js";

const HEIGHT = 112;
// Group of the node's output -> the widget that a click adds a line to, and what the group is called.
const GROUPS = [
  { group: "synonyms", widget: "phrase", title: "Acts like it. Click to forget it too:" },
  { group: "compounds", widget: "preserve_prompts", title: "Named with it, but another thing. Click to keep it:" },
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
    if (node.comfyClass !== "FMN_TrainForgetPatch") return;
    /** @type {(() => void)[]} */
    let marks = [];
    for (const { widget } of GROUPS) onChange(widgetOf(node, widget), () => marks.forEach((again) => again()));
    addResultPanel(node, "related", HEIGHT, (panel, output) => {
      const offered = output.fmn_related?.[0];
      if (!offered) return false;
      marks = [];
      const rows = GROUPS.filter(({ group }) => offered[group]?.length).map(({ group, widget, title }) => {
        const target = widgetOf(node, widget);
        const chips = offered[group].map((/** @type {string} */ name) => {
          const button = chip(target, name);
          marks.push(() => mark(button, target, name));
          return button;
        });
        return element("div", "", [element("div", "fmn-quiet", [title]), ...chips]);
      });
      panel.replaceChildren(...rows);
      return rows.length > 0;
    });
  },
});
