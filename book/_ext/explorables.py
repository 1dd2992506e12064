"""Figures to touch: their place on a page, and the one script that a page's figures need.

A paragraph that begins `**Figure to touch: NAME.**` becomes the figure of that name, with the rest
of the paragraph as its caption; in JupyterLab it reads as a sentence. A link to `#NAME?key=value`
sets the figure. Without JavaScript, and in print, a still picture stands in its place.

The sources in `book/_explore` are ES modules in a subset that is easily joined: named imports from
files beside them, `export function` and `export const` at the start of a line, no default export,
no cycle, no name twice. A page gets them as one classic script, since module files don't load from
`file://`.
"""

import json
import re
from pathlib import Path
from typing import ClassVar

import rjsmin
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).resolve().parents[1] / "_explore"
IMPORT = re.compile(r'^import \{(?P<names>[^}]*)\} from "\./(?P<file>\w+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:function|const) (?P<name>\w+))", re.MULTILINE)
TOP_LEVEL = re.compile(r"^(?:function|const|let|class) (\w+)", re.MULTILINE)
#: The parts of book/_explore/shell.js that a small figure does without.
WHOLE = (
    "{ action: actionButton, bet: betBox, control: settingControl, table: numbersTable, "
    "tools: toolsRow, tries: triesList }"
)
FUNCTION = re.compile(r"^function (\w+)\(.*?^\}\n", re.MULTILINE | re.DOTALL)
PLACE = re.compile(
    r"^\*\*Figure to touch: (?P<name>[\w-]+)(?P<small>, small)?\.\*\* (?P<caption>.+?)(?=\n\n|\Z)",
    re.MULTILINE | re.DOTALL,
)
WORDS = re.compile(r"\[(?P<words>[^\]]+)\]\(#(?P<name>[\w-]+)\?(?P<query>[^)\s]+)\)")


def _land_table() -> str:
    from explore_records import land_table  # reads the record when asked to

    return land_table()


def _race_still() -> str:
    from race_still import race_still  # reads the record when asked to

    return race_still()


def _sharing_table() -> str:
    rows = {
        "Batch norm": "one channel of all examples",
        "Ghost batch norm": "one channel of some examples",
        "Layer norm": "all channels of one example",
        "Instance norm": "one channel of one example",
        "Group norm": "some channels of one example",
    }
    return table(["normalization", "what shares a mean"], rows.items())


def _noise_table() -> str:
    head = ["batch size", "spread of its mean", "spread of the output of an example at 1"]
    sizes = [16, 32, 64, 128, 256]
    return table(head, [(m, f"{m**-0.5:.2f}", f"{(1.5 / m) ** 0.5:.2f}") for m in sizes])


def table(head, rows) -> str:
    """A table in HTML; the first cell of a row names it."""
    top = "".join(f'<th scope="col">{text}</th>' for text in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{text}</td>" for text in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<table class="table"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _gradient_still() -> str:
    from explore_stills import gradient_still

    return gradient_still()


def _devices_still() -> str:
    from explore_stills import devices_still

    return devices_still()


#: Name of a figure: its module, the name that the module exports, its still (the name of an SVG, or
#: a function that makes HTML) and what that shows.
FIGURES = {
    "one-unit": (
        "one_unit.js",
        "oneUnit",
        "four-numbers",
        "Two number lines. On the upper one 3, 9, 11 and 17, with their mean, 10. Lines lead down "
        "to −1.4, −0.2, 0.2 and 1.4 on the lower one, whose mean is 0.",
    ),
    "map": ("map.js", "settingsMap", _land_table, ""),
    "gradient": ("gradient.js", "gradient", _gradient_still, ""),
    "lagging": (
        "lagging.js",
        "lagging",
        "lagging",
        "The moving mean of one neuron against the number of updates. It begins at 0 and climbs to "
        "the true mean, a dashed line at 5. After 15 updates the start still weighs 86%, after 60 "
        "it weighs 55%, after 459 it weighs 1%.",
    ),
    "race": ("race.js", "race", _race_still, ""),
    "noise": ("noise.js", "noise", _noise_table, ""),
    "sharing": ("sharing.js", "sharing", _sharing_table, ""),
    "devices": ("devices.js", "devices", _devices_still, ""),
}


def bundle(figures, small=()) -> str:
    """One classic script that brings the figures of these names to life.

    Args:
        figures: their names.
        small: which of them are shown small. If all are, what a small figure does without is left
            out of the script.
    """
    files = ["shell.js", *(FIGURES[name][0] for name in figures)]
    whole = "" if set(figures) <= set(small) else f", {WHOLE}"
    main = f"upgrade([{', '.join(FIGURES[name][1] for name in figures)}]{whole});"
    return rjsmin.jsmin(joined(files, main))


def joined(files, main: str) -> str:
    """The modules in these files and all that they import, in order, then `main`.

    Raises:
        ValueError: for a module outside the subset that can be joined.
    """
    sources: dict[str, str] = {}
    owners: dict[str, str] = {}
    exports: dict[str, set[str]] = {}

    def visit(file: str, path: tuple[str, ...]) -> None:
        if file in path:
            raise ValueError(f"{file} imports itself: {' -> '.join((*path, file))}")
        if file in sources:
            return
        text = source_of(file)
        for match in IMPORT.finditer(text):
            visit(match["file"], (*path, file))
            names = {name.strip() for name in match["names"].split(",") if name.strip()}
            if missing := names - exports[match["file"]]:
                raise ValueError(f"{file} imports {missing}, which {match['file']} doesn't export")
        body = EXPORT.sub("", IMPORT.sub("", text))
        if left := re.search(r"^\s*(?:import|export)\b.*", body, re.MULTILINE):
            raise ValueError(f"{file}: {left[0].strip()!r} is not in the subset that can be joined")
        for name in TOP_LEVEL.findall(body):
            if name in owners:
                raise ValueError(f"{name} stands in {owners[name]} and in {file}")
            owners[name] = file
        sources[file], exports[file] = body, set(EXPORT.findall(text))

    for file in files:
        visit(file, ())
    body = _needed("".join(sources.values()) + main)
    return f'(() => {{\n"use strict";\n{body}\n}})()\n'


def _needed(body: str) -> str:
    """The script without functions that nothing in it names."""
    while True:
        unused = [match[0] for match in FUNCTION.finditer(body) if _count(match[1], body) == 1]
        if not unused:
            return body
        for text in unused:
            body = body.replace(text, "")


def _count(name: str, body: str) -> int:
    return len(re.findall(rf"\b{name}\b", body))


def source_of(file: str) -> str:
    """The text of a module; the data of records are modules that are made."""
    from explore_records import MADE  # reads the records when asked to

    if file in MADE:
        return MADE[file]()
    return (SOURCES / file).read_text(encoding="utf-8")


class Explorable(nodes.General, nodes.Element):
    """A figure to touch: a still image, then an `ExplorableCaption`."""


class ExplorableCaption(nodes.General, nodes.Element):
    """What stands under a figure to touch."""


class ExplorableDirective(SphinxDirective):
    """`{explorable} NAME`, with the caption as content; `:small:` leaves the controls out."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"small": directives.flag}

    def run(self):
        """The figure."""
        name = self.arguments[0]
        if name not in FIGURES:
            raise self.error(f"expected one of {', '.join(FIGURES)}, got {name!r}")
        _, _, still, alt = FIGURES[name]
        small = "small" in self.options
        self.env.metadata[self.env.docname].setdefault("explorables", {})[name] = small
        caption = ExplorableCaption()
        self.state.nested_parse(self.content, self.content_offset, caption)
        if callable(still):
            picture = nodes.raw("", still(), format="html")
        else:
            picture = nodes.image(uri=f"/book/_static/{still}.svg", alt=alt)
        return [Explorable("", picture, caption, ids=[name], small=small)]


def visit_explorable(writer, node):
    """Open the figure and the place of its still."""
    small = " data-small" if node["small"] else ""
    writer.body.append(
        f'<figure class="bn-explorable" id="{node["ids"][0]}"{small}>\n'
        '<div class="bn-frame"><div class="bn-still">'
    )


def visit_caption(writer, node):
    """Between still and caption stands the place for what JavaScript brings to life."""
    writer.body.append('</div><div class="bn-live" hidden></div></div>\n<figcaption>')


def depart_caption(writer, node):
    """Close the caption."""
    writer.body.append("</figcaption>\n")


def depart_explorable(writer, node):
    """Close the figure."""
    writer.body.append("</figure>\n")


def prepare(app, docname, source):
    """Make directives of places, and links of words that set a figure."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        source[0] = with_figures(source[0], docname)
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = with_figures("".join(cell["source"]), docname)
    source[0] = json.dumps(notebook)


def with_figures(text: str, page: str) -> str:
    """Markdown in which places for figures are directives, and words that set them are links."""

    def place(match):
        small = "\n:small:" if match["small"] else ""
        return f"```{{explorable}} {match['name']}{small}\n\n{match['caption']}\n```"

    def link(match):
        if match["name"] not in FIGURES:
            logger.warning("%s: a link sets %r, which is no figure to touch", page, match["name"])
        query = "&amp;".join(f"{match['name']}.{part}" for part in match["query"].split("&"))
        address = f"?{query}#{match['name']}"
        return f'<a data-sets="{match["name"]}" href="{address}">{match["words"]}</a>'

    return WORDS.sub(link, PLACE.sub(place, text))


def add_script(app, page, template, context, doctree):
    """Give a page that has figures to touch their script and style sheet."""
    places = app.env.metadata.get(page, {}).get("explorables")
    if not places:
        return
    name = f"explore/{page.rpartition('/')[2]}.js"
    file = Path(app.outdir) / "_static" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    small = [figure for figure, is_small in places.items() if is_small]
    file.write_text(bundle(places, small), encoding="utf-8")
    app.add_js_file(name, loading_method="defer")
    app.add_css_file("explore.css")


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    app.add_node(Explorable, html=(visit_explorable, depart_explorable))
    app.add_node(ExplorableCaption, html=(visit_caption, depart_caption))
    app.add_directive("explorable", ExplorableDirective)
    app.connect("source-read", prepare)
    app.connect("html-page-context", add_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
