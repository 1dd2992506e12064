"""A light site: a page asks for one style sheet and one script, and for no icons or drawings.

What Jupyter Book and its extensions put on every page (twelve style sheets, fifteen scripts, three
fonts, on a page that needs a tenth of them) is joined when the site is written: style sheets keep
the rules that can match something on the site, scripts that do nothing here are left out. What a
single page asks for besides, as a figure to touch does, stays as it is.
"""

import hashlib
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import figures
import icons
import stylesheets

from bnutils.plots import COLORS

HERE = Path(__file__).parent
SHEET = re.compile(r'\s*<link\b(?=[^>]*\brel="stylesheet")[^>]*\bhref="([^"]+)"[^>]*>')
SCRIPT = re.compile(r"\s*<script\b(?P<attributes>[^>]*)>(?P<code>.*?)</script>", re.DOTALL)
PRELOAD = re.compile(r'\s*<link rel="preload" as="script"[^>]*>')
COMMENT = re.compile(r"\s*<!--(?!\[).*?-->", re.DOTALL)
SOURCE = re.compile(r'\bsrc="([^"]+)"')
MODE = re.compile(r'<script data-cfasync="false">.*?</script>', re.DOTALL)
HTML = re.compile(r'<html\b([^>]*?)(?: data-theme="\w*")? *>')
# Before anything is drawn: the theme that the reader chose, else that of the reader's system.
EARLY = """<script>{
    const root = document.documentElement.dataset;
    try { root.mode = localStorage.getItem("mode") || "auto"; } catch { root.mode = "auto"; }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.theme = root.mode === "auto" ? dark : root.mode;
  }</script>"""
# site.js does what these do; icons.py what the first does.
REPLACED = {"fontawesome.js", "bootstrap.js", "clipboard.min.js", "copybutton.js"}
# A button that folds blocks of these classes, if there are any.
FOLDS, FOLDED = "toggle", re.compile(r'class="(?:[^"]* )?(?:toggle|admonition[^"]* dropdown)[ "]')
JOINED = ("site.css", "site.js")
KEYED = re.compile(r"(?<=_static/)site\.(css|js)\?v=\w+")
PAGE_NAME = re.compile(r"^DOCUMENTATION_OPTIONS\.pagename = '[^']*';$")


class Page:
    """A page as it was written: its text, and what it asks for."""

    def __init__(self, path: Path, root: Path):
        """Read it."""
        self.path, self.root = path, root
        self.text = COMMENT.sub("", path.read_text(encoding="utf-8"))
        self.text = MODE.sub("", self.text, count=1)
        self.is_light = KEYED.search(self.text) is not None
        self.home = posixpath.relpath(root.as_posix(), path.parent.as_posix())
        self.sheets = [self.place(address) for address in SHEET.findall(self.text)]
        self.scripts = [self.script(match) for match in SCRIPT.finditer(self.text)]

    def place(self, address: str) -> str:
        """Where in the site an address leads."""
        path = self.path.parent / unquote(urlsplit(address).path)
        return posixpath.relpath(path.as_posix(), self.root.as_posix())

    def script(self, match: re.Match) -> str:
        """The place of a script, or its code; nothing for what is data or stands in the text."""
        attributes = match["attributes"]
        if source := SOURCE.search(attributes):
            return self.place(source[1])
        in_head = match.start() < self.text.find("</head>")
        return match["code"].strip() if in_head and "type=" not in attributes else ""


def shared(lists: list[list[str]]) -> list[str]:
    """What all the lists hold, in the order of the first."""
    common = set.intersection(*map(set, lists))
    return list(dict.fromkeys(one for one in lists[0] if one and one in common))


def is_path(script: str) -> bool:
    """Whether a script is a file rather than code."""
    return re.fullmatch(r"[\w./-]+\.js", script) is not None


def is_idle(script: str, folds: bool) -> bool:
    """Whether a script does nothing on this site that others don't do better."""
    name = posixpath.basename(script) if is_path(script) else script
    if name in REPLACED or PAGE_NAME.match(name):
        return True
    return name.startswith((FOLDS, f"let {FOLDS}", f"var {FOLDS}")) and not folds


def color_rules() -> str:
    """The colors of figures as variables, for both themes; paper is light."""

    def said(theme: int) -> str:
        return "".join(f"--bn-{name}:{pair[theme]};" for name, pair in COLORS.items())

    return (
        f"html{{{said(0)}}}html[data-theme=dark]{{{said(1)}}}"
        f"@media print{{html[data-theme]{{{said(0)}}}}}"
    )


def keyed(path: Path) -> str:
    """The name of a file with a key that changes when its content does."""
    return f"{path.name}?v={hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def joined_sheet(sheets: list[str], words: stylesheets.Words, root: Path) -> str:
    """One style sheet of many, with the glyphs that it shows."""
    static = root / "_static"
    paths = [*(root / sheet for sheet in sheets), HERE / "site.css"]
    rules = [
        rule for path in paths for rule in stylesheets.used(stylesheets.read(path, static), words)
    ]
    rules = [rule for rule in rules if not icons.is_theme_font(rule)]
    rules = stylesheets.without_idle_names(rules, words)
    fonts = static / "vendor" / "fontawesome" / "webfonts"
    icons.give_widths(rules, fonts)
    glyphs = icons.icon_fonts(fonts, icons.shown(rules))
    return color_rules() + glyphs + stylesheets.text_of(rules)


def joined_script(scripts: list[str], root: Path) -> str:
    """One script of many."""
    parts = [(root / s).read_text(encoding="utf-8") if is_path(s) else s for s in scripts]
    parts.append((HERE / "site.js").read_text(encoding="utf-8"))
    parts = [re.sub(r"^//# sourceMappingURL=.*$", "", part, flags=re.MULTILINE) for part in parts]
    return "\n;\n".join(part.strip() for part in parts) + "\n"


def rewritten(page: Page, sheets: list[str], scripts: list[str], idle: set[str]) -> str:
    """The page with one link and one script in place of those that all pages have."""
    static = f"{page.home}/_static"
    sheet, script = (keyed(page.root / "_static" / name) for name in JOINED)
    if page.is_light:
        return KEYED.sub(lambda match: sheet if match[1] == "css" else script, page.text)
    gone = set(scripts) | idle
    carried = "".join(
        f" {data}"
        for match in SCRIPT.finditer(page.text)
        if page.script(match) in scripts
        for data in re.findall(r'data-[\w-]+="[^"]*"', match["attributes"])
    )
    links = [f'\n    <link rel="stylesheet" href="{static}/{sheet}">']

    def link(match: re.Match) -> str:
        if page.place(match[1]) not in sheets:
            return match[0]
        return links.pop() if links else ""

    def code(match: re.Match) -> str:
        said = page.script(match)
        if said in gone or PAGE_NAME.match(said):
            return ""
        waits = re.search(r"\b(defer|async|type=|blocking=)", match["attributes"])
        if SOURCE.search(match["attributes"]) and not waits:
            return match[0].replace("<script", "<script defer", 1)
        return match[0]

    text = SCRIPT.sub(code, SHEET.sub(link, PRELOAD.sub("", page.text)))
    first = f'{EARLY}\n    <script defer src="{static}/{script}"{carried}></script>'
    text = text.replace("<title>", f"{first}\n    <title>", 1)
    return HTML.sub(r'<html\1 data-theme="light" data-mode="auto">', text, count=1)


def remove_unused(drawn: set[Path], pages: list[Page]):
    """Remove the files of drawings that now stand in the pages, unless a page links to one."""
    for path in drawn:
        if not any(f"_images/{path.name}" in page.text for page in pages):
            path.unlink()


class Lightening:
    """The work of one build."""

    def __init__(self):
        """Begin with no page."""
        self.written: set[str] = set()

    def write_all(self, app, env):
        """Have all pages written: what one uses decides what the style sheet of all holds."""
        return list(env.all_docs)

    def note(self, app, page, template, context, doctree):
        """Remember a page that this build writes; others may lie there since an earlier one."""
        self.written.add(app.builder.get_outfilename(page))

    def lighten(self, app, exception):
        """Join what the pages ask for, once all is written."""
        if exception or not self.written:
            return
        root = Path(app.outdir)
        paths = [p for p in sorted(root.rglob("*.html")) if "_static" not in p.parts]
        pages = [Page(p, root) for p in paths if 'data-content_root="' in p.read_text("utf-8")]
        new = [page for page in pages if str(page.path) in self.written and not page.is_light]
        folds = any(FOLDED.search(page.text) for page in pages)
        sheets = shared([page.sheets for page in new])
        every_script = shared([page.scripts for page in new])
        idle = {script for script in every_script if is_idle(script, folds)}
        scripts = [script for script in every_script if script not in idle]
        drawn: set[Path] = set()
        for page in pages:
            page.text, files = figures.inlined(page.text, page.path.name, page.path.parent)
            drawn |= files
        sheet, script = (root / "_static" / name for name in JOINED)
        script.write_text(joined_script(scripts, root), encoding="utf-8")
        others = {script for page in pages for script in page.scripts if is_path(script)} - idle
        # A script may fetch others of the site when they are needed, as search does.
        others |= {f"_static/{path.name}" for path in (root / "_static").glob("*.js")}
        files = [script, *(path for other in others if (path := root / other).exists())]
        code = [path.read_text(encoding="utf-8") for path in files]
        words = stylesheets.Words([page.text for page in pages], code)
        sheet.write_text(joined_sheet(sheets, words, root), encoding="utf-8")
        for page in pages:
            page.path.write_text(rewritten(page, sheets, scripts, idle), encoding="utf-8")
        remove_unused(drawn, pages)


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    work = Lightening()
    app.connect("env-get-updated", work.write_all)
    app.connect("html-page-context", work.note)
    app.connect("build-finished", work.lighten, priority=900)  # after those that add files
    return {"parallel_read_safe": True, "parallel_write_safe": False}
