"""The real front end in a real browser; skipped where no Chromium is on the PATH."""

import shutil
import threading
from pathlib import Path

import pytest
from browser.front_end import Graph, opened
from playwright.sync_api import sync_playwright

from tools.comfy_host import REPOSITORY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = REPOSITORY / "out" / "browser"


@pytest.fixture(scope="module")
def browser():
    """One Chromium a module: its event loop must have ended before other tests start theirs."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    with sync_playwright() as play:
        # As root, as in a container, Chromium does not start in its sandbox.
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser, server):
    """A fresh page of the server's front end, past the dialog of a first visit."""
    server.post("/settings/Comfy.TutorialCompleted", True)
    server.post("/settings/Comfy.VueNodes.Enabled", False)
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(900_000)
    opened(page, server)
    yield page
    context.close()


@pytest.fixture
def graph(page):
    """The graph in the page."""
    return Graph(page)


@pytest.fixture
def screenshot(page, request):
    """Saves what the page shows under out/browser, named after the test."""

    def take(name=""):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{request.node.name}{name}.png".replace("/", "_")))

    yield take
    take()


@pytest.fixture
def run(server):
    """Runs a prompt beside the browser, whose event loop holds this thread."""

    def execute(prompt):
        failed = []

        def target():
            try:
                server.run(prompt)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    return execute
