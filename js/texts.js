// What the pack's scripts show, in the page's language.
import { app } from "../../scripts/app.js";
import { CHINESE } from "./texts_zh.js";

/** Whether the page is in Chinese. Hosts without this setting are not. */
export function isChinese() {
  const { setting } = /** @type {any} */ (app).extensionManager ?? {};
  return String(setting?.get?.("Comfy.Locale") ?? "").startsWith("zh");
}

/**
 * A text in the page's language, or in English where it has no translation.
 * @param {string} english with {name} where a value goes
 * @param {Record<string, any>} [values] the values by name
 */
export function text(english, values = {}) {
  const shown = (isChinese() && CHINESE[english]) || english;
  return shown.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}
