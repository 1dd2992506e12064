"""Chapters are notebooks that read well wherever they are opened; pages get more out of them.

A notebook holds plain Markdown alone, so that JupyterLab, VS Code and Colab show it as it is meant:

- The paragraph under a figure that begins with `**Figure 1.2.**` is its caption. On a page it
  becomes the caption of the drawing, with a number that others can link to.
- Works are cited by links to where they can be read. On a page such a link leads to the work's
  entry in the bibliography, which has the link.
- A figure is stored as PNG, for JupyterLab, and as SVG. A page takes the SVG, without its ground.
"""

import json
import re

from docutils import nodes

from bnutils.plots import without_ground

CAPTION = re.compile(r"\A\*\*Figure \d+\.\d+\.\*\* (?P<text>.+?)(?:\n\n|\Z)", re.DOTALL)


def prepare_notebook(app, docname, source):
    """Make captions of the paragraphs under figures, and leave one picture of each figure."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    cells = notebook["cells"]
    for cell, below in zip(cells, [*cells[1:], None], strict=True):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/svg+xml" in data:
                data.pop("image/png", None)
                data["image/svg+xml"] = without_ground("".join(data["image/svg+xml"]))
        if "mystnb" in cell["metadata"] and below is not None:
            text = "".join(below["source"])
            if match := CAPTION.match(text):
                cell["metadata"]["mystnb"]["figure"]["caption"] = match["text"]
                below["source"] = text[match.end() :]
    source[0] = json.dumps(notebook)


def link_citations(app, doctree, page):
    """Lead the links of a chapter to works that the bibliography has to their entries there."""
    domain = app.env.get_domain("cite")
    works = {entry.key: entry for entry in domain.citations}
    by_address = {}
    for key, entry in domain.bibdata.data.entries.items():
        if key in works and (address := address_of(entry.fields)):
            by_address[address] = works[key]
    for link in doctree.findall(nodes.reference):
        if work := by_address.get(link.get("refuri")):
            document = work.bibliography_key.docname
            if document != page:
                address = app.builder.get_relative_uri(page, document)
                link["refuri"], link["internal"] = f"{address}#{work.citation_id}", True
                link["classes"] = ["bn-cite"]


def address_of(fields) -> str | None:
    """Where a work can be read; None if its entry doesn't say."""
    if "url" in fields:
        return fields["url"]
    return f"https://doi.org/{fields['doi']}" if "doi" in fields else None


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    app.connect("source-read", prepare_notebook)
    app.connect("doctree-resolved", link_citations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
