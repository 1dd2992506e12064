"""The system's Chromium for tools and tests, with letters even where the system has no font."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

import matplotlib
from playwright.sync_api import Browser, sync_playwright

#: Its names on Linux, Windows and macOS; the folder of a name must be on PATH.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "Google Chrome")
#: The pages that it opens are our own.
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


class NoBrowserError(Exception):
    """There is no Chromium, in a sentence for people."""


def found() -> str | None:
    """Where it is, if it is there."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def has_letters(browser: Browser) -> bool:
    """Whether text takes room: where there is no font, it has no height."""
    page = browser.new_page()
    page.set_content("<i>letters</i>")
    height = page.locator("i").evaluate("(element) => element.offsetHeight")
    page.close()
    return height > 0


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; on a system without fonts, with those that Matplotlib brings."""
    if (path := found()) is None:
        raise NoBrowserError(f"This needs Chromium, and there is none of {', '.join(BROWSERS)}.")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        options = {"executable_path": path, "args": QUIET}
        browser = playwright.chromium.launch(**options)
        if not has_letters(browser):
            browser.close()
            fonts = Path(folder, "fonts.conf")
            fonts.write_text(only(Path(matplotlib.get_data_path(), "fonts", "ttf")), "utf-8")
            variables = {**os.environ, "FONTCONFIG_FILE": str(fonts)}
            browser = playwright.chromium.launch(**options, env=variables)
        yield browser
        browser.close()


def only(*folders: Path) -> str:
    """A configuration of fontconfig with the fonts of some folders, DejaVu before others."""
    names = {"sans-serif": "DejaVu Sans", "serif": "DejaVu Serif", "monospace": "DejaVu Sans Mono"}
    aliases = (
        f"<alias><family>{kind}</family><prefer><family>{name}</family></prefer></alias>"
        for kind, name in names.items()
    )
    there = (f"<dir>{escape(str(folder))}</dir>" for folder in folders)
    return f"<fontconfig>{''.join([*there, *aliases])}</fontconfig>\n"
