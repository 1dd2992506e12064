"""Link the first use of each glossary term on each page to its entry.

The sources stay plain Markdown: the links are made on the pages, from the entries of
book/glossary.md. An entry is found by any of its terms, in either case, with or without a plural
`s` or `es`. Headings, code, formulas, captions, links and outputs are left alone.
"""

import re
from typing import NamedTuple

from docutils import nodes
from sphinx import addnodes

GLOSSARY = "book/glossary"
LEFT_ALONE = (GLOSSARY, "book/bibliography")
REFERENCE = "book/api"  # and the pages below it
SKIPPED = (nodes.literal, nodes.math, nodes.reference, nodes.citation, nodes.raw)


class Entry(NamedTuple):
    """An entry of the glossary.

    Attributes:
        anchor: the id of its first term.
        terms: all its terms, in lower case.
        meaning: its definition, as text.
    """

    anchor: str
    terms: tuple[str, ...]
    meaning: str


def read_glossary(doctree: nodes.document) -> list[Entry]:
    """The entries of the glossary page."""
    entries = []
    for glossary in doctree.findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            terms = list(item.findall(nodes.term))
            meaning = next(item.findall(nodes.definition)).astext().replace("\n", " ")
            texts = tuple(term.astext().lower() for term in terms)
            entries.append(Entry(terms[0]["ids"][0], texts, meaning))
    return entries


def term_pattern(terms) -> re.Pattern:
    """Matches any of the terms as a whole word; of two that begin alike, the longer one."""
    alternatives = [
        r"\s+".join(map(re.escape, term.split())) for term in sorted(terms, key=len, reverse=True)
    ]
    return re.compile(rf"(?<![\w-])({'|'.join(alternatives)})(?:e?s)?(?![\w-])", re.IGNORECASE)


def link_text(text: str, pattern, wanted: dict[str, Entry], address: str) -> list[nodes.Node]:
    """The text with links in it; an entry that gets its link is taken out of `wanted`."""
    made, end = [], 0
    for match in pattern.finditer(text):
        entry = wanted.get(" ".join(match[1].lower().split()))
        if entry is None:
            continue
        for term in entry.terms:
            del wanted[term]
        link = nodes.reference("", match[0], internal=True, refuri=f"{address}#{entry.anchor}")
        link["classes"].append("bn-term")
        link["reftitle"] = entry.meaning
        made += [nodes.Text(text[end : match.start()]), link]
        end = match.end()
    return [*made, nodes.Text(text[end:])] if made else []


def is_prose(text: nodes.Text) -> bool:
    """Whether a piece of text stands in a paragraph, and in nothing that is left alone."""
    node, in_paragraph = text.parent, False
    while node is not None:
        caption = node.tagname.lower().endswith("caption")  # of figures to touch, too
        if caption or isinstance(node, SKIPPED) or "cell_output" in node.get("classes", []):
            return False
        in_paragraph = in_paragraph or isinstance(node, nodes.paragraph)
        node = node.parent
    return in_paragraph


def link_page(app, doctree, page) -> None:
    """Link the terms of one page."""
    if page in LEFT_ALONE or page.startswith(REFERENCE) or not app.env.bn_glossary:
        return
    wanted = {term: entry for entry in app.env.bn_glossary for term in entry.terms}
    pattern = term_pattern(wanted)
    address = app.builder.get_relative_uri(page, GLOSSARY)
    for text in [text for text in doctree.findall(nodes.Text) if is_prose(text)]:
        if made := link_text(text.astext(), pattern, wanted, address):
            text.parent.replace(text, made)


def update_glossary(app, env):
    """Read the glossary; if it has changed, have every page written again."""
    entries = read_glossary(env.get_doctree(GLOSSARY)) if GLOSSARY in env.found_docs else []
    if entries == getattr(env, "bn_glossary", None):
        return []
    env.bn_glossary = entries
    return sorted(env.found_docs - set(LEFT_ALONE))


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    app.connect("env-updated", update_glossary)
    app.connect("doctree-resolved", link_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
