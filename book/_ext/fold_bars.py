"""Say on each fold bar what it holds.

A folded cell of a notebook gets the words of its bar from what it is: the code that draws the
figure above a caption `**Figure 1.2.**`, a solution, or code by another name. Nothing is written
by hand, so that a number can't be wrong.
"""

import json
import re

FIGURE = re.compile(r"\A\*\*Figure (?P<number>\d+\.\d+)\.\*\*")
FOLDED = {"hide-input", "hide-output", "hide-cell"}


def words(cell: dict, below: dict | None) -> str:
    """What a folded cell holds; `below` is the cell that follows it."""
    first = "".join(cell["source"]).split("\n", 1)[0]
    if first.startswith("# Solution"):
        return "Solution"
    caption = FIGURE.match("".join(below["source"])) if below else None
    if caption:
        return f"The code that draws figure {caption['number']}"
    if "hide-output" in cell["metadata"].get("tags", []):
        return "The output"
    return "The code"


def name_bars(app, docname, source):
    """Give the words to the cells of a notebook, before the captions are taken from below them."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    cells = notebook["cells"]
    for cell, below in zip(cells, [*cells[1:], None], strict=True):
        if FOLDED & set(cell["metadata"].get("tags", [])):
            said = words(cell, below)
            settings = cell["metadata"].setdefault("mystnb", {})
            settings["code_prompt_show"] = settings["code_prompt_hide"] = said
    source[0] = json.dumps(notebook)


CELL = re.compile(
    r'<details class="admonition hide [\w-]+">\s*<summary aria-label="Toggle hidden content">\s*'
    r'<(?P<tag>p|span) class="collapsed[^"]*">(?P<said>.*?)</(?P=tag)>.*?</summary>',
    re.DOTALL,
)
DROPDOWN = re.compile(
    r'<details class="[^"]*\bsd-dropdown\b[^"]*">\s*<summary[^>]*>\s*'
    r'<span class="sd-summary-text">(?P<said>.*?)</span>.*?</summary>',
    re.DOTALL,
)

RIGHT = "<p><strong>Right.</strong>"  # a check's answer


def simplify_bars(app, page, template, context, doctree):
    """One kind of bar on all pages, with one text: whether it is open the browser tells."""
    if "body" in context:
        for bar in (CELL, DROPDOWN):
            plain = r'<details class="bn-fold"><summary>\g<said></summary>'
            context["body"] = bar.sub(plain, context["body"])
        context["body"] = context["body"].replace(RIGHT, f'<p class="bn-right">{RIGHT[3:]}')


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    app.connect("source-read", name_bars, priority=400)
    app.connect("html-page-context", simplify_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
