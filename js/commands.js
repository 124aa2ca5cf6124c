// What the page's menu offers of this pack.
import { app } from "../../scripts/app.js";
import { ask } from "./panel.js";
import { text } from "./texts.js";

async function clearCache() {
  const { megabytes } = await ask("clear_cache", {});
  const detail = text("Freed {megabytes} MB of what trainings keep for the next run.", { megabytes });
  app.extensionManager.toast.add({ severity: "success", summary: "Forget-Me-Not", detail, life: 5000 });
}

app.registerExtension({
  name: "forget-me-not.commands",
  // The host translates the label.
  commands: [{ id: "ForgetMeNot.ClearCache", label: "Clear Forget Cache", function: clearCache }],
  menuCommands: [{ path: ["Edit"], commands: ["ForgetMeNot.ClearCache"] }],
});
