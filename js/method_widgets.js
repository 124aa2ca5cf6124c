// Only the widgets that the chosen method uses are shown, under Train Forget Patch.
import { app } from "../../scripts/app.js";
import { onChange, refit, widgetOf } from "./panel.js";

// Method -> widgets that have no effect with it.
/** @type {Record<string, string[]>} */
const UNUSED = {
  "visual denoising": ["loss", "target_mass"],
  "closed form": ["steps", "learning_rate", "loss", "end_token", "target_mass"],
};
const CONCERNED = new Set(Object.values(UNUSED).flat());

/** @param {any} node */
function update(node) {
  const unused = UNUSED[widgetOf(node, "method")?.value] ?? [];
  for (const widget of node.widgets ?? []) {
    if (!CONCERNED.has(widget.name)) continue;
    widget.hidden = unused.includes(widget.name);
    // Nodes 2.0 reads the options.
    widget.options = { ...widget.options, hidden: widget.hidden };
  }
  // It looks again when the list of widgets changes.
  const widgets = [...node.widgets];
  node.widgets = [];
  node.widgets = widgets;
  refit(node);
}

app.registerExtension({
  name: "forget-me-not.method-widgets",
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass !== "FMN_TrainForgetPatch") return;
    onChange(widgetOf(node, "method"), () => update(node));
    const configured = node.onConfigure;
    node.onConfigure = function (/** @type {any[]} */ ...args) {
      configured?.apply(this, args);
      update(node);
    };
    update(node);
  },
});
