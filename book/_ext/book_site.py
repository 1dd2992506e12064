"""What the site needs beyond Jupyter Book's configuration file."""

import os
import re
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

CHAPTER = re.compile(r"notebooks/(?P<number>\d\d)_")
UNNUMBERED = ("book/index", "book/introduction")  # their figures have no number either

logger = logging.getLogger(__name__)


def repository_buttons(app, config):
    """Add repository and launch buttons where the repository's address is known.

    The address is read from BOOK_REPOSITORY_URL (and the branch from BOOK_REPOSITORY_BRANCH), which
    the publishing workflow sets. Without it, a page has no button that could lead nowhere.
    """
    url = os.environ.get("BOOK_REPOSITORY_URL")
    if not url:
        return
    config.html_theme_options.update(
        repository_url=url,
        repository_branch=os.environ.get("BOOK_REPOSITORY_BRANCH", "main"),
        path_to_docs="",
        use_repository_button=True,
        use_issues_button=True,
        launch_buttons={
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    )


def repository_links(url, branch):
    """Where the repository is and where it runs, as pairs of words and address.

    Binder and Colab can be led to a repository on GitHub only, as here.
    """
    links = [("the repository", url)]
    address = urlsplit(url)
    if address.netloc == "github.com":
        place = address.path.strip("/").removesuffix(".git")
        first = "notebooks/01_motivation.ipynb"
        lab = f"?urlpath=lab/tree/{first}"
        links += [
            ("run the chapters on Binder", f"https://mybinder.org/v2/gh/{place}/{branch}{lab}"),
            (
                "open chapter 1 in Colab",
                f"https://colab.research.google.com/github/{place}/blob/{branch}/{first}",
            ),
        ]
    return links


class RepositoryLinks(SphinxDirective):
    """`{repository-links}`: a line of links where the repository's address is known, else none."""

    def run(self):
        """A paragraph, or nothing."""
        if not self.config.bn_repository:
            return []
        paragraph = nodes.paragraph(classes=["bn-repository"])
        for words, url in repository_links(*self.config.bn_repository):
            paragraph += nodes.Text(" · " if len(paragraph) else "")
            paragraph += nodes.reference("", words[0].upper() + words[1:], refuri=url)
        return [paragraph]


def drop_live_code(app, config):
    """Silence thebe: no page runs code, and its script, put on each page twice, is an error."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if one.handler.__module__ != "sphinx_thebe"]
    files = app.registry.css_files
    files[:] = [one for one in files if one[0] != "sphinx-thebe.css"]


def mend_citation_list(app, page, template, context, doctree):
    """Drop the roles of the bibliography: a list without list items, and one that is outdated."""
    if "body" in context:
        body = context["body"].replace('<div role="list" class="cit', '<div class="cit')
        context["body"] = body.replace(' role="doc-biblioentry"', "")


def drop_downloads(app, page, template, context, doctree):
    """A chapter can be downloaded as a notebook; the other pages are of no use as files."""
    if not CHAPTER.match(page) and "header_buttons" in context:
        buttons = context["header_buttons"]
        buttons[:] = [one for one in buttons if one.get("label") != "download-buttons"]


def title_once(app, page, template, context, doctree):
    """The first page is called as the book is: its window says that once."""
    context["book_title"] = context["docstitle"]
    if page == app.config.root_doc:
        context["docstitle"] = ""


def number_chapters(app, env):
    """Give each chapter, its sections and its figures the number in the name of its file."""
    for document in UNNUMBERED:
        env.toc_fignumbers.pop(document, None)
    numbered = []
    for document, sections in env.toc_secnumbers.items():
        match = CHAPTER.match(document)
        if match is None:
            continue
        chapter = int(match["number"])

        def renumber(numbers, chapter=chapter):
            return numbers and (chapter, *numbers[1:])

        for anchor in sections:
            sections[anchor] = renumber(sections[anchor])
        for figures in env.toc_fignumbers.get(document, {}).values():
            for figure in figures:
                figures[figure] = renumber(figures[figure])
        env.titles[document]["secnumber"] = (chapter,)
        for entry in env.tocs[document].findall(nodes.reference):
            entry["secnumber"] = renumber(entry.get("secnumber"))
        numbered.append(document)
    return numbered


def skip_tuple_fields(app, what, name, obj, skip, options):
    """Leave out "Alias for field number 0": the Attributes of a NamedTuple say what it is."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def link_outputs(app, page, template, context, doctree):
    """Lead links inside outputs to pages: a claim's source, the chapter that a report names."""
    entries = {c.key: c for c in app.env.get_domain("cite").citations}

    def link(match):
        entry = entries.get(match["key"])
        if entry is None:
            logger.warning("%s: a claim names %r, which no chapter cites", page, match["key"])
            return match[0]
        document = entry.bibliography_key.docname
        address = f"{context['pathto'](document)}#{entry.citation_id}"
        return f'<cite><a href="{address}">{match["text"]}</a></cite>'

    if "body" in context:
        card = r'<cite data-key="(?P<key>[^"]+)">(?P<text>[^<]+)</cite>'
        body = re.sub(card, link, context["body"])
        chapter = r'<span class="bn-chapter" data-chapter="(\w+)">([^<]+)</span>'

        def page_of(match):
            return f'<a href="{context["pathto"](f"notebooks/{match[1]}")}">{match[2]}</a>'

        body = re.sub(chapter, page_of, body)
        # A report brings its colors along; on a page they come from the style sheet.
        level = r'<strong style="border-left:[^"]*">(error|warning|note)</strong>'
        context["body"] = re.sub(level, r'<strong data-level="\1">\1</strong>', body)


def setup(app):
    """Connect the hooks; Sphinx calls this."""
    url = os.environ.get("BOOK_REPOSITORY_URL")
    branch = os.environ.get("BOOK_REPOSITORY_BRANCH", "main")
    app.add_config_value("bn_repository", (url, branch) if url else None, "env")
    app.add_directive("repository-links", RepositoryLinks)
    app.connect("config-inited", repository_buttons)
    app.connect("config-inited", drop_live_code)
    app.connect("html-page-context", mend_citation_list)
    app.connect("html-page-context", link_outputs)
    app.connect("html-page-context", title_once)
    app.connect("html-page-context", drop_downloads, priority=900)  # after the theme's
    app.connect("env-get-updated", number_chapters, priority=900)  # after Sphinx has numbered
    app.connect("autodoc-skip-member", skip_tuple_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
