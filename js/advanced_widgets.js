// Widgets that few people need, hidden until "Show Advanced" in the node's menu, on pages that know the mark but do not act on it.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "forget-me-not.advanced-widgets",
  nodeCreated(/** @type {any} */ node) {
    if (!String(node.comfyClass).startsWith("FMN_")) return;
    for (const widget of node.widgets ?? []) {
      if (widget.options?.advanced && widget.advanced === undefined) widget.advanced = true;
    }
    node.setSize([node.size[0], node.computeSize()[1]]);
  },
});
