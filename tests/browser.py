"""A real browser and the built site for tests, shared by the test modules of one process."""

import functools
import http.server
import threading
from importlib import resources
from pathlib import Path

import pytest
from chromium import chromium, found

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
# What looks for hindrances; its package would read it in the encoding of the system.
AXE = resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
NO_BROWSER = pytest.mark.skipif(found() is None, reason="no Chromium on this machine")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Files of the site, without a log."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def address():
    """Where the site is served."""
    handler = functools.partial(QuietHandler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium."""
    with chromium() as browser:
        yield browser


def watched(page):
    """The page, which keeps in `asked` and `troubles` what it asks for and what goes wrong."""
    page.asked, page.troubles = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("console", lambda m: m.type == "error" and page.troubles.append(m.text))
    page.on("requestfailed", lambda request: page.troubles.append(request.url))
    page.on(
        "response", lambda response: response.status >= 400 and page.troubles.append(response.url)
    )
    return page


@pytest.fixture
def visit(browser, address):
    """Open a page in a given theme and width; collect what it asks for and what goes wrong.

    `quiet` waits until it has asked for nothing for half a second; further keywords are those of
    Playwright's contexts.
    """
    contexts = []

    def go(path, theme="light", width=1280, quiet=False, **options):
        options = {"reduced_motion": "reduce", **options}
        viewport = {"width": width, "height": 900}
        context = browser.new_context(viewport=viewport, color_scheme=theme, **options)
        contexts.append(context)
        page = watched(context.new_page())
        url = path if "://" in path else address + path
        page.goto(url, wait_until="networkidle" if quiet else "load")
        return page

    yield go
    for context in contexts:
        context.close()
