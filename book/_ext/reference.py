"""The package reference: each module's page is made from the module.

In a page's source, a fenced block names the module and, group by group, what it documents::

    ```{reference} bnutils.network
    Build and train: mlp cnn fit
    What comes back: History losses.Loss
    ```

It becomes the module's docstring, tables that link each member and say it in a sentence, and a
section for each group. A name is looked up in the module; `losses.Loss` stands in a submodule.
Members of the module's `__all__` that no group names are told as a warning.

`{commands}` shows what each command of the shell says of itself, and `{reference-overview}` a table
of the modules, from the docstring of `bnutils`.

Single backticks in docstrings are code, and a link where they name a member. Sources are linked to
the repository where its address is known (`BOOK_REPOSITORY_URL`), and else to pages of this site.
"""

import inspect
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyXRefRole
from sphinx.ext.autodoc.mock import mock
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

OVERVIEW = "book/api"
PAGES = f"{OVERVIEW}/"
BLOCK = re.compile(r"^```\{reference\} (?P<module>[\w.]+)\n(?P<groups>.*?)^```$", re.M | re.S)
SENTENCE = re.compile(r"(.+?[.?!])(?:\s+(?=[A-Z`\"])|$)", re.S)
LINE = re.compile(r"<dd>(.*)</dd>")
LINES = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>\n')
SIGNATURE = re.compile(r'<dt class="sig [^>]*\bid="(?P<id>[\w.]+)".*?</dt>', re.S)
SOURCE = re.compile(r'(<a [^>]*)(><span class="viewcode-link">)')
# What stands under an old address, in which all modules were on one page.
LED_ON = """const [, name] = /^#bnutils\\.(\\w+)/.exec(location.hash) ?? [];
if (%s.includes(name)) location.replace(`api/${name}.html${location.hash}`);"""

logger = logging.getLogger(__name__)


class Member(NamedTuple):
    """A name of the package.

    Attributes:
        path: where it is imported from, as a reader would.
        home: where it is defined.
        kind: what autodoc calls it: "function", "class", "exception" or "data".
        says: the first sentence of its docstring.
        calls: whether it is a class whose instances are called.
    """

    path: str
    home: str
    kind: str
    says: str
    calls: bool = False


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring."""
    paragraph = " ".join((text or "").strip().partition("\n\n")[0].split())
    match = SENTENCE.match(paragraph)
    return match[1] if match else paragraph


def find(module: str, name: str) -> Member:
    """A member of a module or, as in `losses.Loss`, of one of its submodules."""
    *inner, own = name.split(".")
    parent = ".".join([module, *inner])
    value = getattr(import_module(parent), own)
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
        calls = "__call__" in vars(value)
    elif callable(value) and hasattr(value, "__name__"):
        kind, calls = "function", False
    else:
        comments = ModuleAnalyzer.for_module(parent).find_attr_docs()
        says = first_sentence("\n".join(comments.get(("", own), ())))
        return Member(f"{parent}.{own}", f"{parent}.{own}", "data", says)
    home = f"{value.__module__}.{value.__qualname__}"
    return Member(f"{parent}.{own}", home, kind, first_sentence(inspect.getdoc(value)), calls)


def read_groups(text: str) -> dict[str, list[str]]:
    """The names under each group's title; a line that is set in goes on with the one before."""
    groups: dict[str, list[str]] = {}
    for line in re.sub(r"\n +", " ", text).splitlines():
        title, _, names = line.partition(":")
        groups[title.strip()] = names.split()
    return groups


def module_of(path: str) -> str:
    """The module that has a page of its own, of a member's path."""
    return ".".join(path.split(".")[:2])


def page_lines(module: str, groups: dict[str, list[str]]) -> Iterator[str]:
    """The MyST text of a module's page, below its opening."""
    members = {title: [find(module, name) for name in names] for title, names in groups.items()}
    yield from ("```{eval-rst}", f".. automodule:: {module}", "```", "")
    for title, found in members.items():
        yield from (f"| {title} | what it is for |", "|---|---|")
        for member in found:
            own_page = module_of(member.home) == module
            target = member.path if own_page else member.home
            yield f"| {{py:obj}}`~{target}` | {member.says} |"
        yield ""
    for title, found in members.items():
        yield from (f"## {title}", "", "```{eval-rst}")
        for member in found:
            if module_of(member.home) != module:
                continue
            yield f".. auto{member.kind}:: {member.path}"
            if member.kind == "data":
                yield "   :no-value:"
            if member.kind == "class":
                yield "   :members:"
            if member.calls:
                yield "   :special-members: __call__"
            yield ""
        yield from ("```", "")


def fill_page(app: Any, page: str, source: list[str]) -> None:
    """Write a module's page out, before it is parsed."""
    if not page.startswith(PAGES):
        return

    def made(match: re.Match) -> str:
        module, groups = match["module"], read_groups(match["groups"])
        with mock(app.config.autodoc_mock_imports):
            public = getattr(import_module(module), "__all__", ())
            named = {name for names in groups.values() for name in names}
            if missing := sorted(set(public) - named):
                logger.warning("%s: no group has %s", page, ", ".join(missing))
            return "\n".join(page_lines(module, groups))

    source[0] = BLOCK.sub(made, source[0])


class Commands(SphinxDirective):
    """`{commands}`: what each command of the shell says when it is asked for help."""

    def run(self) -> list[nodes.Node]:
        """A title and a text for each."""
        from bnutils import cli

        self.env.note_dependency(cli.__file__)
        shown = []
        for name in cli.EXAMPLES:
            said = io.StringIO()
            width = {"COLUMNS": "72"}  # argparse asks the environment
            with redirect_stdout(said), patch.dict(os.environ, width), suppress(SystemExit):
                cli.main([name, "--help"])
            shown.append(nodes.rubric("", "", nodes.literal("", f"bnutils {name}")))
            shown.append(nodes.literal_block("", said.getvalue().strip(), language="none"))
        return shown


class Overview(SphinxDirective):
    """`{reference-overview}`: the modules and what each is for, as `bnutils` says it."""

    def run(self) -> list[nodes.Node]:
        """A table for each group of modules."""
        return self.parse_text_to_nodes("\n".join(self.lines()))

    def lines(self) -> Iterator[str]:
        """The MyST text."""
        import bnutils

        self.env.note_dependency(bnutils.__file__)
        for group in re.finditer(r"^(\w[^\n]*):\n((?:    \w.*\n)+)", bnutils.__doc__, re.M):
            if group[1] == "Example":
                continue
            yield from (f"| {group[1]} | what it is for |", "|---|---|")
            for line in group[2].splitlines():
                name, _, says = line.strip().partition(": ")
                yield f"| [`{name}`](/{PAGES}{name}.md) | {says[0].upper()}{says[1:]} |"
            yield ""


class NameRole(PyXRefRole):
    """Single backticks in a docstring: code, and a link if they name a member."""

    def process_link(self, env, node, has_explicit_title, title, target):
        """Mark the link as one that may lead nowhere."""
        node["bn_maybe"] = True
        return super().process_link(env, node, has_explicit_title, title, target)

    def __call__(self, name, rawtext, text, lineno, inliner, options=None, content=()):
        """Read the text as code only: angle brackets and tildes have no meaning here."""
        if not re.fullmatch(r"[\w.]+(\(\))?", text):
            return [nodes.literal(rawtext, text, classes=["py"])], []
        return super().__call__("py:obj", rawtext, text, lineno, inliner, options or {}, content)


def show_as_code(app: Any, env: Any, node: nodes.Element, content: nodes.Node) -> Any:
    """What names no member stays code."""
    return nodes.literal("", content.astext(), classes=["py"]) if node.get("bn_maybe") else None


def add_homes(app: Any, doctree: nodes.document) -> None:
    """Let a member be found under the module that defines it too."""
    if not app.env.docname.startswith(PAGES):
        return
    domain = app.env.get_domain("py")
    for signature in doctree.findall(addnodes.desc_signature):
        module, name = signature.get("module"), signature.get("fullname")
        first, _, rest = (name or "").partition(".")
        with mock(app.config.autodoc_mock_imports):
            value = getattr(import_module(module), first, None) if module and first else None
        home = getattr(value, "__module__", None)
        if isinstance(home, str) and home != module and home.startswith(f"{module}."):
            path = ".".join(filter(None, (home, first, rest)))
            if path not in signature["ids"]:
                signature["ids"].append(path)
            if path not in domain.objects:
                kind = signature.parent["objtype"]
                domain.note_object(path, kind, signature["ids"][0], aliased=True)


def source_address(url: str, branch: str, root: Path) -> Any:
    """A function that finds a member's lines in the repository, for `sphinx.ext.linkcode`."""

    def resolve(domain: str, info: dict[str, str]) -> str | None:
        try:
            value = import_module(info["module"])
            for part in info["fullname"].split("."):
                value = getattr(value, part)
            value = inspect.unwrap(getattr(value, "fget", value))
            path = Path(inspect.getsourcefile(value)).resolve().relative_to(root.resolve())
            lines, first = inspect.getsourcelines(value)
        except (AttributeError, TypeError, OSError, ValueError):
            return None  # data, and fields of a class, have no lines of their own
        return f"{url}/blob/{branch}/{path.as_posix()}#L{first}-L{first + len(lines) - 1}"

    return resolve


def link_to_repository(app: Any, config: Any) -> None:
    """Give `sphinx.ext.linkcode` its function."""
    if config.bn_repository:
        config.linkcode_resolve = source_address(*config.bn_repository, Path(app.srcdir))


def open_once(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """A page's first sentence says what its module is for; the docstring's goes on from there."""
    if what == "module":
        end = lines.index("") if "" in lines else len(lines)
        paragraph = " ".join(lines[:end])
        lines[:end] = [paragraph.removeprefix(first_sentence(paragraph)).strip()]


def mend_signatures(app: Any, page: str, template: str, context: dict, doctree: Any) -> None:
    """The lines of a long signature are lines, and a link to a source says whose it is."""
    if not page.startswith(PAGES):
        return

    def lines(match: re.Match) -> str:
        return LINE.sub(r'<span class="bn-parameter">\1</span>', match[1])

    def named(match: re.Match) -> str:
        name = match["id"].rpartition(".")[2]
        return SOURCE.sub(rf'\1 aria-label="Source of {name}"\2', match[0])

    context["body"] = SIGNATURE.sub(named, LINES.sub(lines, context["body"]))


def lead_on(app: Any, page: str, template: str, context: dict, doctree: Any) -> None:
    """Lead an address in the page that once held all modules on to the module's page."""
    if page == OVERVIEW:
        documents = app.env.found_docs
        names = sorted(name.removeprefix(PAGES) for name in documents if name.startswith(PAGES))
        app.add_js_file(None, body=LED_ON % json.dumps(names))


def setup(app: Any) -> dict[str, bool]:
    """Connect the hooks; Sphinx calls this."""
    linked = bool(os.environ.get("BOOK_REPOSITORY_URL"))
    app.setup_extension("sphinx.ext.linkcode" if linked else "sphinx.ext.viewcode")
    app.add_directive("commands", Commands)
    app.add_directive("reference-overview", Overview)
    app.add_role("name", NameRole())
    app.connect("config-inited", link_to_repository)
    app.connect("source-read", fill_page)
    app.connect("autodoc-process-docstring", open_once)
    app.connect("doctree-read", add_homes)
    app.connect("missing-reference", show_as_code)
    app.connect("html-page-context", lead_on)
    app.connect("html-page-context", mend_signatures)
    app.add_css_file("reference.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
