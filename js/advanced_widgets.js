// Widgets that few people need are hidden until "Show Advanced" in the node's menu, on pages that know the mark but do not act on it.
// Hidden widgets take no room, which the classic canvas leaves for them.
import { app } from "../../scripts/app.js";

/** @param {any} node @param {any} widget */
function takeNoRoomWhileHidden(node, widget) {
  const before = widget.computeSize;
  // The page adds 4 pixels to every widget.
  const get = () => (node.isWidgetVisible(widget) ? before : () => [0, -4]);
  Object.defineProperty(widget, "computeSize", { configurable: true, get });
}

app.registerExtension({
  name: "forget-me-not.advanced-widgets",
  nodeCreated(/** @type {any} */ node) {
    if (!String(node.comfyClass).startsWith("FMN_")) return;
    const leavesRoom = typeof node.isWidgetVisible === "function";
    for (const widget of node.widgets ?? []) {
      if (widget.options?.advanced && widget.advanced === undefined) widget.advanced = true;
      if (leavesRoom) takeNoRoomWhileHidden(node, widget);
    }
    node.setSize([node.size[0], node.computeSize()[1]]);
  },
});
