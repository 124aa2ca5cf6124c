// The page's language.
import { app } from "../../scripts/app.js";

/** Whether the page is in Chinese. Hosts without this setting are not. */
export function isChinese() {
  const { setting } = /** @type {any} */ (app).extensionManager ?? {};
  return String(setting?.get?.("Comfy.Locale") ?? "").startsWith("zh");
}
