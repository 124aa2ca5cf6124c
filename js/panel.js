// What the widgets of this pack share: a panel under a node's own widgets, and elements made of text only.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { text } from "./texts.js";

const STYLE = `
.fmn-panel { box-sizing: border-box; width: 100%; height: 100%; overflow: auto; padding: 4px; font: 12px/1.4 sans-serif;
  color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); border-radius: 6px; }
.fmn-panel button, .fmn-dialog button { font: inherit; color: var(--input-text, #ddd); cursor: pointer; border-radius: 4px;
  background: var(--comfy-menu-bg, #353535); border: 1px solid var(--border-color, #4e4e4e); padding: 2px 8px; }
.fmn-panel button:disabled { opacity: 0.5; cursor: default; }
.fmn-chip { display: inline-block; margin: 1px; padding: 0 5px; border-radius: 8px; border: 1px solid var(--border-color, #4e4e4e); }
.fmn-panel[hidden] { display: none; }
.fmn-panel button.fmn-add { border-radius: 8px; margin: 1px; padding: 0 6px; }
.fmn-chip.lit { background: #2f5fa8; color: #fff; }
.fmn-chip.end { font-style: italic; opacity: 0.75; }
.fmn-report { white-space: pre-wrap; user-select: text; }
.fmn-warning { color: inherit; font-weight: 600; border-left: 3px solid #f0b429; padding-left: 6px; }
.fmn-quiet { opacity: 0.65; }
.fmn-legend { font-size: 11px; }
.fmn-scale { display: inline-block; width: 90px; height: 9px; border-radius: 2px; vertical-align: middle; }
.fmn-outdated .fmn-chips { display: none; }
`;

/**
 * An element with a class, children and properties. Children that are texts stay texts: nothing is ever parsed as HTML.
 * @param {string} tag @param {string} [className] @param {(Node | string)[]} [children] @param {Record<string, any>} [properties]
 * @returns {any}
 */
export function element(tag, className = "", children = [], properties = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return Object.assign(made, properties);
}

/** Puts what all widgets of the pack share into the page's style. */
export function addStyle() {
  if (!document.getElementById("fmn-style")) document.head.append(element("style", "", [STYLE], { id: "fmn-style" }));
}

// From top to bottom, whichever script was loaded first.
const PANELS = ["tokens", "monitor", "report", "before-after", "attention", "related"];

/**
 * A panel under a node's widgets, in the classic canvas and in Nodes 2.0. It is not saved with the workflow. A panel that needs no
 * height is hidden: some hosts give an element of height 0 the height of the window. Its owner shows it once it needs some.
 * @param {any} node @param {string} name @param {() => number} height pixels that it needs now
 * @returns {HTMLElement}
 */
export function addPanel(node, name, height) {
  addStyle();
  const panel = element("div", "fmn-panel");
  panel.dataset.fmn = name;
  const needed = () => (panel.hidden ? 0 : height());
  const widget = node.addDOMWidget(name, `FMN_${name}`, panel, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: needed,
    getMaxHeight: needed,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  panel.hidden = height() === 0;
  const place = (/** @type {any} */ w) => (w.type.startsWith("FMN_") ? PANELS.indexOf(w.name) : -1);
  node.widgets.sort((/** @type {any} */ a, /** @type {any} */ b) => place(a) - place(b));
  return panel;
}

/** @param {any} node @param {string} name of a panel @param {boolean} hidden */
export function hidePanel(node, name, hidden) {
  const panel = widgetOf(node, name)?.element;
  if (panel) panel.hidden = hidden;
}

/**
 * Makes a node as high as its widgets now need, never lower than the user made it.
 * @param {any} node
 */
export function refit(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  node.setDirtyCanvas?.(true, true);
}

/**
 * A panel that is there once the node has run and as long as its output holds something for the page.
 * @param {any} node @param {string} name @param {number | ((panel: HTMLElement) => number)} height
 * @param {(panel: HTMLElement, output: any) => boolean} show whether the output held something
 * @returns {HTMLElement} the panel
 */
export function addResultPanel(node, name, height, show) {
  let seen = false;
  const needed = () => (typeof height === "number" ? height : height(panel));
  /** @type {HTMLElement} */
  const panel = addPanel(node, name, () => (seen ? needed() : 0));
  const executed = node.onExecuted;
  node.onExecuted = function (/** @type {any} */ output) {
    executed?.apply(this, arguments);
    seen = show(panel, output ?? {});
    panel.hidden = !seen;
    if (seen) refit(node);
  };
  return panel;
}

/** @param {any} node @param {string} name @returns {any} the widget of that name, if the node has it */
export function widgetOf(node, name) {
  return node.widgets?.find((/** @type {any} */ w) => w.name === name);
}

/**
 * Runs a function after a widget's value has changed, whoever changed it, and after a pause, so that typing asks once.
 * @param {any} widget @param {() => void} changed
 */
export function onChange(widget, changed) {
  const before = widget.callback;
  widget.callback = function (/** @type {any[]} */ ...args) {
    const result = before?.apply(this, args);
    changed();
    return result;
  };
  widget.element?.addEventListener?.("input", changed);
  widget.inputEl?.addEventListener?.("input", changed);
}

/** @param {() => void} action @param {number} pause milliseconds */
export function afterPause(action, pause) {
  /** @type {any} */
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, pause);
  };
}

/** Ids of a node and of its workflow, under which the server remembers what the node received when it ran.
 * @param {any} node @returns {{workflow: string, node: string}} */
export function runOf(node) {
  return { workflow: String((app.rootGraph ?? app.graph)?.id ?? ""), node: String(node.id) };
}

/**
 * A JSON answer of the pack's routes; throws with the server's sentence where it refuses.
 * @param {string} path @param {any} [body] @returns {Promise<any>}
 */
export async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await api.fetchApi(`/forget_me_not/${path}`, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? text("The server answered {status}.", { status: response.status }));
  return answer;
}
