"""Loading the front end of a server."""

READY = "window.app && window.app.graph && window.app.extensionManager"


def opened(page, server):
    """Loads, or reloads, the page."""
    page.goto(f"http://{server.url}/")
    page.wait_for_function(READY)
    page.wait_for_timeout(1000)
    return page
