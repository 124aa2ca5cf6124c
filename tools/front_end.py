"""The host's page in a browser, for the tools that build workflows and take pictures."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tools.comfy_server import ComfyServer

# Path of the browser, or None.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# JavaScript: whether the page has loaded.
READY = "window.app && window.app.graph && window.app.extensionManager"
# JavaScript: runs the graph, and returns the error's message, or nothing.
RUN = """async () => {
    const { api } = await import('/scripts/api.js');
    const ended = new Promise(resolve => {
        api.addEventListener('execution_success', () => resolve(''), { once: true });
        api.addEventListener('execution_error', event => resolve(event.detail.exception_message), { once: true });
    });
    await app.queuePrompt(0);
    return await ended;
}"""


@contextlib.contextmanager
def page_of(server: ComfyServer, width: int, height: int) -> Iterator[Page]:
    """The page of a server, past the dialog of a first visit, in a window of this size. Needs Chromium on the PATH."""
    viewport: Any = {"width": width, "height": height}
    server.post("/settings/Comfy.TutorialCompleted", True)
    server.post("/settings/Comfy.Graph.CanvasInfo", False)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=viewport)
        page.set_default_timeout(1_800_000)
        load(page, server)
        yield page
        browser.close()


def load(page: Page, server: ComfyServer) -> None:
    """Loads, or reloads, the page."""
    page.goto(f"http://{server.url}/")
    page.wait_for_function(READY)
    page.wait_for_timeout(2000)
