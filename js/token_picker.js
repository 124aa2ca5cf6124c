// The tokens of what is typed, under the nodes that take a phrase: the concept's columns lit, and what is wrong with it.
import { app } from "../../scripts/app.js";
import { addPanel, afterPause, ask, element, onChange, refit, runOf, widgetOf } from "./panel.js";
import { text } from "./texts.js";

// Node -> the widgets that hold prompt and phrase; templates fill in where a node has no prompt.
/** @type {Record<string, {prompt?: string, phrase?: string}>} */
const NODES = {
  FMN_EncodePrompt: { prompt: "text" },
  FMN_ForgetConcept: { phrase: "forget" },
  FMN_TrainForgetPatch: { phrase: "phrase" },
  FMN_Concept: { phrase: "phrases" },
  FMN_VisualDenoisingPairs: { phrase: "phrase" },
  FMN_ZeroConceptAttention: { prompt: "prompts", phrase: "phrase" },
  FMN_ConceptAttentionMap: { prompt: "prompt", phrase: "phrase" },
  FMN_AttentionMask: { prompt: "prompt", phrase: "phrase" },
  FMN_ConceptCorrection: { phrase: "word" },
};
// Of the tokens of one text, and of several.
const HEIGHT = 58;
const TALL = 96;
const PAUSE = 250;

/** @param {any} chip */
function chipOf(chip) {
  const { column } = chip;
  const title = chip.end ? text("end token, column {column}", { column }) : text("column {column}", { column });
  return element("span", `fmn-chip${chip.lit ? " lit" : ""}${chip.end ? " end" : ""}`, [chip.text], { title });
}

/** @param {HTMLElement} panel @param {any} answer */
function show(panel, answer) {
  const rows = answer.rows.map((/** @type {any} */ row) =>
    element("div", "", [
      ...row.chips.map(chipOf),
      ...row.warnings.map((/** @type {string} */ w) => element("div", "fmn-warning", [w])),
    ]),
  );
  panel.replaceChildren(...rows);
  panel.title =
    answer.tokenizer === "standard"
      ? text("Tokens, by the standard tokenizer; the connected CLIP's after a run. Blue: what is forgotten.")
      : text("Tokens, by the connected CLIP's tokenizer. Blue: what is forgotten.");
}

/** @param {any} node @param {{prompt?: string, phrase?: string}} names */
function watch(node, names) {
  let several = false;
  const panel = addPanel(node, "tokens", () => (several ? TALL : HEIGHT));
  const value = (/** @type {string | undefined} */ name) => String((name && widgetOf(node, name)?.value) ?? "");
  let asked = 0;
  const update = afterPause(async () => {
    const number = ++asked;
    // Of several prompts, the first: each line of Zero Concept Attention's list is one.
    const prompt = names.prompt === "prompts" ? value("prompts").split("\n")[0] : value(names.prompt);
    const question = { ...runOf(node), prompt, phrase: value(names.phrase), kind: value("kind") };
    try {
      const answer = await ask("tokens", { ...question, templates: value("templates"), end_token: value("end_token") });
      if (number !== asked) return;
      show(panel, answer);
      if (several === answer.rows.length > 1) return;
      several = !several;
      refit(node);
    } catch (error) {
      if (number === asked) panel.replaceChildren(element("div", "fmn-warning", [String(/** @type {Error} */ (error).message)]));
    }
  }, PAUSE);
  for (const name of [names.prompt, names.phrase, "kind", "templates", "end_token"]) {
    const widget = name && widgetOf(node, name);
    if (widget) onChange(widget, update);
  }
  const configured = node.onConfigure;
  node.onConfigure = function (/** @type {any[]} */ ...args) {
    configured?.apply(this, args);
    update();
  };
  const executed = node.onExecuted;
  node.onExecuted = function (/** @type {any[]} */ ...args) {
    executed?.apply(this, args);
    update();
  };
  update();
}

app.registerExtension({
  name: "forget-me-not.token-picker",
  nodeCreated(/** @type {any} */ node) {
    const names = NODES[node.comfyClass];
    if (names) watch(node, names);
  },
});
