// Notes of the shipped workflows, in the page's language.
import { app } from "../../scripts/app.js";
import { isChinese } from "./texts.js";

app.registerExtension({
  name: "forget-me-not.notes",
  loadedGraphNode(/** @type {any} */ node) {
    const { fmn_en: english, fmn_zh: chinese } = node.properties ?? {};
    const widget = node.widgets?.[0];
    if (node.type !== "MarkdownNote" || !english || !chinese || !widget) return;
    const [shown, other] = isChinese() ? [chinese, english] : [english, chinese];
    // The note holds both texts as shipped, so that one that the user has edited is recognised and stays.
    if (widget.value !== other) return;
    widget.value = shown;
    // Nodes 2.0 has read the value already.
    widget.callback?.(shown);
  },
});
