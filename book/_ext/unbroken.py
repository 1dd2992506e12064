"""What stays on one line: "chapter 7", "459 steps", and `--output` in a sentence.

A long name in the cheat-sheet's tables may break between its words: `Batch` | `Normalization`.
"""

import re

from docutils import nodes

SHEET = "book/cheatsheet"
SPACE = "\N{NO-BREAK SPACE}"
THINGS = (
    "epochs?|examples|images|layers|minutes|passes|points|rows|seconds|seeds|steps|units|updates"
)
PAIR = re.compile(
    rf"\b([Cc]hapters?|[Ff]igures?|[Ss]ections?|[Tt]ables?) (?=\d)|(?<=\d) (?=(?:{THINGS})\b)"
)
KEPT = nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment
WORD = re.compile(r'<span class="pre">(?=[^<\s]{2,20}</span>)(?=[^<]*-)')
CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
LONG = re.compile(r'(?<=<span class="pre">)[\w.=]{13,}(?=</span>)')


def joined(text: str) -> str:
    """The text with no-break spaces between a number and its word."""
    return PAIR.sub(lambda match: (match[1] or "") + SPACE, text)


def join(app, doctree, page):
    """Join numbers and words in the text of a page."""
    if app.builder.format != "html":
        return
    for text in list(doctree.findall(nodes.Text)):
        parent = text.parent
        if not isinstance(parent, KEPT) and (said := joined(text)) != text:
            place = next(i for i, child in enumerate(parent.children) if child is text)
            parent[place] = nodes.Text(said)


def keep_words(app, page, template, context, doctree):
    """Mark short words of code with a hyphen: a browser would break them behind it."""
    if "body" in context:
        body = WORD.sub('<span class="pre bn-whole">', context["body"])
        if page == SHEET:
            body = CELL.sub(lambda cell: LONG.sub(_parted, cell[0]), body)
        context["body"] = body


def _parted(name: re.Match) -> str:
    return re.sub(r"(?<=[a-z=])(?=[A-Z])", "<wbr>", name[0])


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    app.connect("doctree-resolved", join, priority=850)  # before formulas take the text apart
    app.connect("html-page-context", keep_words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
