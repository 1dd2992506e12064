"""What the pages of one or several built sites cost a phone, beside the stock template's.

`python benchmarks/bench_site.py [SITE ...] [--stock] [--page NAME ...] [--json FILE]`
`python benchmarks/bench_site.py --table [--quick]`

With `--table` every page of the built site is weighed, and no more: the table of book/speed.md.
Else each page is opened cold in Chromium, 390 px wide, on a processor four times slower than this
one and a line of 1.6 Mbit/s with 150 ms there and back. The server packs text with gzip. Printed
are requests, kilobytes as sent by kind, requests to other hosts (refused, so not weighed: the stock
template takes MathJax from one), the time of the largest paint, layout shift at 390 and 1280 px,
the milliseconds of tasks longer than 50, and what axe-core finds, of any impact.
"""

import argparse
import contextlib
import functools
import gzip
import http.server
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections import Counter
from pathlib import Path

import common
import yaml
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

HTML = common.ROOT / "_build" / "html"
PAGES = ["book/index", "book/introduction", "notebooks/01_motivation", "notebooks/02_the_math"]
KINDS = {
    ".html": "html", ".css": "css", ".js": "js", ".woff": "fonts", ".woff2": "fonts",
    ".svg": "images", ".png": "images",
}  # fmt: skip
PACKED = (".html", ".css", ".js", ".svg", ".json")
# Our extensions that make the looks; the others make what a page says.
LOOKS = {"explorables", "formulas", "light", "reference", "search"}
# And the settings that do.
LOOKING = (
    "html_css_files", "html_context", "templates_path", "html_sidebars", "html_theme_options",
    "html_math_renderer", "default_role",
)  # fmt: skip
LINE = {"offline": False, "latency": 150, "downloadThroughput": 2e5, "uploadThroughput": 9e4}
PARTS = ("html", "js", "css")
#: Pages without a document of their own, and many of a kind, of which the heaviest stands for all.
OTHERS = {
    "book/api/*": "a page of the reference, the heaviest",
    "_modules/**/*": "the source of a module, the heaviest",
    "genindex": "the index",
    "search": "the search",
}
HOW = (
    "Requests, and kilobytes as they are sent (text is packed with gzip), of a page opened with an "
    "empty cache, 390 px wide. What a page fetches later, for a search or a figure that is run, "
    "is not part of it"
)
OBSERVE = """
  window.seen = { paint: 0, shift: 0, long: 0 };
  const observe = (type, act) =>
    new PerformanceObserver((list) => list.getEntries().forEach(act)).observe({
      type, buffered: true });
  observe("largest-contentful-paint", (e) => { seen.paint = e.startTime; });
  observe("layout-shift", (e) => { if (!e.hadRecentInput) seen.shift += e.value; });
  observe("longtask", (e) => { seen.long += e.duration; });
"""


class Packing(http.server.SimpleHTTPRequestHandler):
    """A server that packs text, as those on the web do."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Send a file, packed if it is text."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        packed = path.suffix in PACKED
        body = gzip.compress(body, 6) if packed else body
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Length", str(len(body)))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing."""


def build_stock(folder: Path) -> Path:
    """Build the book as Jupyter Book's template has it, without what makes our looks."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=common.ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(common.ROOT / name, folder / name)
    config = yaml.safe_load((folder / "_config.yml").read_text(encoding="utf-8"))
    ours = config["sphinx"]["local_extensions"]
    config["sphinx"]["local_extensions"] = {n: p for n, p in ours.items() if n not in LOOKS}
    for name in LOOKING:
        config["sphinx"]["config"].pop(name, None)
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tool = str(Path(sysconfig.get_path("scripts")) / "jupyter-book")
    done = subprocess.run([tool, "build", "."], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return folder / "_build" / "html"


def weigh(browser, address: str, page: str, slow: bool = False) -> tuple:
    """Open a page as a phone does: its context, its tab, its link, and what was sent for it."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, device_scale_factor=3, is_mobile=True,
        has_touch=True,
    )  # fmt: skip
    tab = context.new_page()
    tab.add_init_script(OBSERVE)
    sent, sizes, outside, link = {}, Counter(), [], context.new_cdp_session(tab)

    def refuse(route):
        outside.append(route.request.url)
        route.abort()

    context.route(lambda url: not url.startswith((address, "data:", "blob:")), refuse)
    link.send("Network.enable")
    link.send("Network.setCacheDisabled", {"cacheDisabled": True})
    if slow:
        link.send("Network.emulateNetworkConditions", LINE)
        link.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    link.on("Network.responseReceived", lambda e: sent.update({e["requestId"]: e["response"]}))

    def arrived(event):
        url = sent.get(event["requestId"], {}).get("url", "")
        if url.startswith(address):
            kind = KINDS.get(Path(url.partition("?")[0]).suffix, "others")
            sizes[kind] += event["encodedDataLength"]
            sizes["requests"] += 1

    link.on("Network.loadingFinished", arrived)
    tab.goto(f"{address}{page}.html", wait_until="networkidle")
    tab.wait_for_timeout(500)  # a slow processor draws after the last byte, and the icon comes late
    found = {
        "page": page,
        "requests": sizes.pop("requests"),
        **{kind: sizes[kind] / 1e3 for kind in dict.fromkeys(KINDS.values())},
        "KB": sizes.total() / 1e3,
        "outside": len(outside),
    }
    return context, tab, link, found


def visit(browser, address: str, page: str, axe: bool) -> dict:
    """Open a page on a slow phone; say what it cost."""
    context, tab, link, cost = weigh(browser, address, page, slow=True)
    seen = tab.evaluate("() => window.seen")
    link.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    found = Axe().run(tab)["violations"] if axe else []
    context.close()
    wide = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = wide.new_page()
    tab.add_init_script(OBSERVE)
    tab.goto(f"{address}{page}.html", wait_until="networkidle")
    shift = tab.evaluate("() => window.seen.shift")
    wide.close()
    return {
        **cost,
        "paint ms": seen["paint"],
        "shift 390": seen["shift"],
        "shift 1280": shift,
        "long ms": seen["long"],
        "axe": sum(len(v["nodes"]) for v in found),
    }


@contextlib.contextmanager
def served(site: Path):
    """The address of a site, while it is served."""
    handler = functools.partial(Packing, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        yield address
        server.shutdown()


def measure(browser, site: Path, pages: list[str], axe: bool) -> list[dict]:
    """The costs of some pages of a site."""
    with served(site) as address:
        return [visit(browser, address, p, axe) for p in pages if (site / f"{p}.html").exists()]


def weight_of_all(browser, quick: bool) -> None:
    """Print the table of all pages, and keep it."""
    listed = yaml.safe_load((common.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in listed["parts"] for chapter in part["chapters"]]
    shown = {page: f"{{doc}}`/{page}`" for page in [listed["root"], *chapters]}
    for pattern, name in OTHERS.items():
        found = HTML.glob(f"{pattern}.html")
        page = max(found, key=lambda path: len(gzip.compress(path.read_bytes(), 6)))
        shown[page.relative_to(HTML).with_suffix("").as_posix()] = name
    if missing := [page for page in shown if not (HTML / f"{page}.html").exists()]:
        sys.exit(
            f"expected a built site with the pages of _toc.yml, got none of {missing}: make site"
        )
    rows = []
    with served(HTML) as address:
        for page in list(shown)[: 3 if quick else None]:
            context, *_, cost = weigh(browser, address, page)
            context.close()
            sent = [f"{cost[part]:.0f}" for part in (*PARTS, "KB")]
            rows.append([shown[page], cost["requests"], *sent])
    head = ["page", "requests", *PARTS, "in all"]
    how = f"{HOW}. Chromium {browser.version}."
    common.show("pages", head, rows, how, ["jupyter-book", "playwright"], quick)


def table(name: str, rows: list[dict]) -> str:
    """Rows as text."""
    lines = [name]
    for at, row in enumerate(rows):
        numbers = {k: v for k, v in row.items() if k != "page"}
        if not at:
            lines.append(f"{'page':32}" + "".join(f"{key:>11}" for key in numbers))
        shown = (
            f"{v:11.3f}" if k.startswith("shift") else f"{v:11.0f}" for k, v in numbers.items()
        )
        lines.append(f"{row['page']:32}" + "".join(shown))
    return "\n".join(lines)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sites", nargs="*", type=Path, default=[HTML], help="built sites")
    parser.add_argument("--page", action="append", help="as notebooks/01_motivation; more than one")
    parser.add_argument("--all", action="store_true", help="every page")
    parser.add_argument("--stock", action="store_true", help="build the stock template too")
    parser.add_argument("--no-axe", action="store_true", help="leave out axe-core")
    parser.add_argument("--table", action="store_true", help="weigh all pages for book/speed.md")
    parser.add_argument("--quick", action="store_true", help="a try of --table: three pages")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    pages = options.page or PAGES
    if options.all:
        found = [p for f in ("book", "notebooks") for p in sorted((HTML / f).glob("*.html"))]
        pages = [p.relative_to(HTML).with_suffix("").as_posix() for p in found]
    browser_path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    results = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        sites = {str(site): site for site in options.sites}
        if options.stock:
            sites["stock template"] = build_stock(Path(folder))
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        if options.table:
            weight_of_all(browser, options.quick)
            return
        for name, site in sites.items():
            results[name] = measure(browser, site, pages, not options.no_axe)
            print(table(name, results[name]), flush=True)
        browser.close()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
