"""One style sheet of many, with the rules alone that something on the site can match."""

import dataclasses
import posixpath
import re
from pathlib import Path
from urllib.parse import urlsplit

import tinycss2

# What a page's text says in its tags, and every word that a script could put there.
TAG = re.compile(r"<([a-zA-Z][\w-]*)((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>")
ATTRIBUTE = re.compile(r"([a-zA-Z][\w:-]*)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+)))?")
SCRIPT = re.compile(r"<script\b[^>]*>(.*?)</script>", re.DOTALL)
WORD = re.compile(r"-{0,2}[A-Za-z_][\w-]*")
DATA = re.compile(r"\bdataset\.(\w+)")
# Pseudo-classes whose argument is a list of selectors of which one must match.
CHOICES = {"is", "where", "has", "-webkit-any", "matches"}
NAMED = re.compile(r"@(?:-\w+-)?keyframes")


@dataclasses.dataclass
class Rule:
    """A rule of a style sheet: what it applies to, what it says, and the rules inside it."""

    head: str
    declarations: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    inside: list["Rule"] | None = None
    selectors: list[list] | None = None

    def text(self) -> str:
        """The rule, as short as it can be written."""
        if self.inside is None and not self.declarations:
            return f"{self.head};"
        said = ";".join(f"{name}:{value}" for name, value in self.declarations)
        rules = "".join(rule.text() for rule in self.inside or [])
        return f"{self.head}{{{said}{';' if said and rules else ''}{rules}}}"


class Words:
    """The names that pages and scripts use: of elements, classes, ids, attributes, variables."""

    def __init__(self, pages: list[str], scripts: list[str]):
        """Read all of them."""
        self.names = {"html", "head", "body"}
        for page in pages:
            for tag, attributes in TAG.findall(SCRIPT.sub("", page)):
                self.names.add(tag.lower())
                for name, *values in ATTRIBUTE.findall(attributes):
                    value = "".join(values)
                    self.names.add(name.lower())
                    if name in ("class", "id"):
                        self.names.update(value.split())
                    elif name == "style":
                        self.names.update(WORD.findall(value))
        for script in [*scripts, *(code for page in pages for code in SCRIPT.findall(page))]:
            self.names.update(WORD.findall(script))
            for name in DATA.findall(script):
                self.names.add("data-" + re.sub(r"[A-Z]", lambda m: "-" + m[0].lower(), name))

    def can_match(self, selector: list) -> bool:
        """Whether all that a selector asks for occurs somewhere."""
        before = None
        for token in selector:
            name = None
            if token.type == "ident" and not (
                before and before.type == "literal" and before == ":"
            ):
                name = token.value if before is not None and before == "." else token.lower_value
            elif token.type == "hash":
                name = token.value
            elif token.type == "[] block":
                name = next((t.lower_value for t in token.content if t.type == "ident"), None)
            choices = token.type == "function" and token.lower_name in CHOICES
            if choices and not any(map(self.can_match, split(token.arguments))):
                return False
            if name is not None and name not in self.names:
                return False
            before = token
        return True


def split(tokens: list) -> list[list]:
    """The parts of a list that commas separate."""
    parts = [[]]
    for token in tokens:
        if token.type == "literal" and token == ",":
            parts.append([])
        elif token.type != "comment":
            parts[-1].append(token)
    return parts


def write(tokens: list) -> str:
    """Tokens as text, without comments and needless spaces."""
    kept = []
    for token in tokens:
        if token.type == "whitespace":
            token.value = " "
        if token.type != "comment":
            kept.append(token)
    return tinycss2.serialize(kept).strip()


def written(selectors: list[list]) -> str:
    """A list of selectors as text."""
    return ",".join(map(write, selectors))


def read(sheet: Path, root: Path) -> list[Rule]:
    """The rules of a style sheet and of those that it imports, seen from the folder `root`."""
    folder = posixpath.relpath(sheet.parent.as_posix(), root.as_posix())
    text = sheet.read_text(encoding="utf-8")
    rules = tinycss2.parse_stylesheet(text, skip_comments=True, skip_whitespace=True)
    return _rules(rules, folder, root)


def _rules(nodes: list, folder: str, root: Path) -> list[Rule]:
    found = []
    for node in nodes:
        if node.type == "qualified-rule":
            selectors = [trimmed(part) for part in split(node.prelude)]
            rule = Rule(written(selectors), selectors=selectors)
            found.append(_block(rule, node, folder, root))
        elif node.type == "at-rule" and node.lower_at_keyword == "import":
            address = next(t.value for t in node.prelude if t.type in ("string", "url"))
            path = Path(posixpath.normpath((root / folder / urlsplit(address).path).as_posix()))
            found += read(path, root)
        elif node.type == "at-rule" and node.lower_at_keyword != "charset":
            rule = Rule(f"@{node.at_keyword} {write(node.prelude)}".strip())
            found.append(rule if node.content is None else _block(rule, node, folder, root))
    return found


def _block(rule: Rule, node: tinycss2.ast.Node, folder: str, root: Path) -> Rule:
    inside = []
    if node.type == "at-rule" and node.lower_at_keyword not in ("font-face", "page"):
        nodes = tinycss2.parse_rule_list(node.content, skip_comments=True, skip_whitespace=True)
        inside = _rules(nodes, folder, root)
    else:
        for part in tinycss2.parse_blocks_contents(
            node.content, skip_comments=True, skip_whitespace=True
        ):
            if part.type == "declaration":
                _move(part.value, folder)
                value = write(part.value) + ("!important" if part.important else "")
                rule.declarations.append((part.name, value))
            elif part.type in ("qualified-rule", "at-rule"):
                inside += _rules([part], folder, root)
    rule.inside = inside
    return rule


def trimmed(tokens: list) -> list:
    """Tokens without the spaces at both ends."""
    while tokens and tokens[0].type == "whitespace":
        tokens = tokens[1:]
    while tokens and tokens[-1].type == "whitespace":
        tokens = tokens[:-1]
    return tokens


def _move(tokens: list, folder: str):
    """Addresses of files lead on from where the joined sheet lies."""
    for token in tokens:
        strings = token.arguments if token.type == "function" and token.lower_name == "url" else []
        for one in [token] if token.type == "url" else [s for s in strings if s.type == "string"]:
            if not urlsplit(one.value).scheme and not one.value.startswith(("#", "/")):
                one.value = posixpath.normpath(posixpath.join(folder, one.value))
                one.representation = (
                    f'"{one.value}"' if one.type == "string" else f"url({one.value})"
                )


def used(rules: list[Rule], words: Words) -> list[Rule]:
    """The rules that can match something, as new rules."""
    kept = []
    for rule in rules:
        inside = used(rule.inside or [], words) if not NAMED.match(rule.head) else rule.inside
        head = rule.head
        if rule.selectors is not None:
            selectors = [s for s in rule.selectors if words.can_match(s)]
            if not selectors:
                continue
            head = written(selectors)
        if inside or rule.declarations or rule.inside is None:
            kept.append(dataclasses.replace(rule, head=head, inside=inside))
    return kept


def every(rules: list[Rule]):
    """All rules, those inside others too."""
    for rule in rules:
        yield rule
        yield from every(rule.inside or [])


def without_idle_names(rules: list[Rule], words: Words) -> list[Rule]:
    """Leave out variables that nothing reads, and animations and fonts that nothing names."""
    while True:
        said = [value for rule in every(rules) for _, value in rule.declarations]
        read_names = {name for value in said for name in re.findall(r"var\(\s*(--[\w-]+)", value)}
        idle = 0
        for rule in every(rules):
            kept = [
                (name, value)
                for name, value in rule.declarations
                if not name.startswith("--") or name in read_names or name in words.names
            ]
            idle += len(rule.declarations) - len(kept)
            rule.declarations = kept
        if not idle:
            break
    named = {
        word
        for rule in every(rules)
        if not rule.head.startswith("@font-face")
        for name, value in rule.declarations
        if name.startswith(("animation", "-webkit-animation", "--"))
        for word in WORD.findall(value)
    }
    fonts = " ".join(
        value.replace("\\", "").replace('"', "")
        for rule in every(rules)
        if not rule.head.startswith("@font-face")
        for name, value in rule.declarations
        if name in ("font", "font-family") or name.startswith("--")
    )

    def idles(rule: Rule) -> bool:
        if NAMED.match(rule.head):
            return rule.head.split()[-1] not in named
        if rule.head.startswith("@font-face"):
            family = dict(rule.declarations)["font-family"]
            return family.replace("\\", "").strip("\"'") not in fonts
        return not rule.declarations and not rule.inside and rule.inside is not None

    return [rule for rule in rules if not idles(rule)]


def text_of(rules: list[Rule]) -> str:
    """A style sheet of the rules."""
    return "".join(rule.text() for rule in rules)
