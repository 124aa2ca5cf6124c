"""The real front end in a real browser; skipped where no Chromium is on the PATH."""

import threading
from pathlib import Path

import pytest
from browser.front_end import Graph, Pages
from playwright.sync_api import sync_playwright

from tools.comfy_host import REPOSITORY
from tools.front_end import CHROMIUM

SCREENSHOTS = REPOSITORY / "out" / "browser"
FAILED = pytest.StashKey[bool]()


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


@pytest.fixture(scope="module")
def pages(browser, server):
    """Pages of the server's front end: loading one takes longer than most tests, so the next test gets it again."""
    opener = Pages(browser, server)
    yield opener
    opener.close()


@pytest.fixture
def page(pages, request):
    """A page of the server's front end with an empty graph in the classic canvas; a fresh one after a failure."""
    yield pages.empty()
    if request.node.stash.get(FAILED, False):
        pages.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Remembers a failure for the fixtures that end after it."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


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
    """Runs a prompt, of a workflow, beside the browser, whose event loop holds this thread."""

    def execute(prompt, workflow=None):
        failed = []

        def target():
            try:
                server.run(prompt, workflow=workflow)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    return execute
