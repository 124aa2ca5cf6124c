// Colours by what a node does, so that a graph can be read from afar: it forgets, it applies what was forgotten, or it measures.
import { app } from "../../scripts/app.js";

/** @type {Record<string, string>} role -> name of a colour in the host's own palette */
const COLOUR_OF_ROLE = { forgets: "purple", applies: "blue", measures: "green" };
/** @type {Record<string, string[]>} */
const NODES_OF_ROLE = {
  forgets: ["FMN_ForgetConcept", "FMN_TrainForgetPatch", "FMN_ConceptCorrection"],
  applies: ["FMN_ApplyForgetPatch", "FMN_GatedForgetPatch", "FMN_ScheduleForgetPatch", "FMN_ZeroConceptAttention"],
  measures: ["FMN_Compare", "FMN_ForgetReport", "FMN_AttackForgetPatch"],
};
/** @type {Record<string, string>} */
const COLOURS = Object.fromEntries(
  Object.entries(NODES_OF_ROLE).flatMap(([role, types]) => types.map((type) => [type, COLOUR_OF_ROLE[role]])),
);

app.registerExtension({
  name: "forget-me-not.node-colours",
  nodeCreated(/** @type {any} */ node) {
    const colour = /** @type {any} */ (app).canvas?.constructor?.node_colors?.[COLOURS[node.comfyClass]];
    // A saved graph says by itself which colours its nodes have: what was taken off by hand stays off.
    if (colour && !(/** @type {any} */ (app).configuringGraph)) Object.assign(node, { color: colour.color, bgcolor: colour.bgcolor });
  },
});
