// Colours of the pack's own sockets and wires, in the classic canvas and in Nodes 2.0.
import { app } from "../../scripts/app.js";
import { element } from "./panel.js";

/** @type {Record<string, string>} */
const COLOURS = {
  FORGET_CONCEPT: "#3fa79b",
  FORGET_PATCH: "#5b84f5",
  FORGET_PAIRS: "#b97d4b",
  FORGET_SCORES: "#97a63a",
  FORGET_OPTIONS: "#8791a5",
  FMN_IMAGE_TEXT: "#c95f9e",
};

/** Gives the classic canvas the colours that its theme does not have. */
function colourCanvas() {
  const canvas = /** @type {any} */ (app).canvas;
  for (const colours of [canvas?.default_connection_color_byType, canvas?.constructor?.link_type_colors]) {
    if (colours) for (const [type, colour] of Object.entries(COLOURS)) colours[type] ||= colour;
  }
  canvas?.setDirty?.(true, true);
}

app.registerExtension({
  name: "forget-me-not.socket-colours",
  setup() {
    // Nodes 2.0 takes a socket's colour from a property of this name; a theme that has the type sets it on the element itself.
    const properties = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
    document.head.append(element("style", "", [`:root { ${properties.join(" ")} }`]));
    colourCanvas();
    // A theme empties the canvas's colours of all types that it does not know, then sets properties of the page.
    new MutationObserver(colourCanvas).observe(document.documentElement, { attributes: true, attributeFilter: ["style", "class"] });
  },
});
