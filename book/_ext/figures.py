"""Drawings become part of the page that shows them: no request each, and colors of the theme.

A drawing in the page's own text can take the page's variables, so that each color of
`bnutils.plots.COLORS` is the one for a light or for a dark page. What the drawings of a page share,
the shapes of letters, stands there once. Numbers are rounded to what a screen can show.
"""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

from sphinx.util import logging

from bnutils.plots import COLORS

logger = logging.getLogger(__name__)

IMAGE = re.compile(r'<img\b[^>]*\bsrc="(?P<source>[^"]+)"[^>]*?>')
ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?")
COMMAND = re.compile(rf"[A-Za-z]|{NUMBER.pattern}")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
COLOR = re.compile(r"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")
# Matplotlib's rule for all that it draws; `site.css` has it for the drawings of a page.
JOINS = "*{stroke-linejoin: round; stroke-linecap: butt}"
NAMES = {light: name for name, (light, _) in COLORS.items()}
POINTS = {"m": 1, "l": 1, "q": 2, "c": 3, "z": 0}  # that a command of a path takes
# Attributes that can't hold a variable, which a style can.
PAINTED = ("fill", "stroke", "stop-color")


def number(value: float, digits: int = 2) -> str:
    """A number with so many digits behind the point, as short as it can be written."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    text = text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
    return "0" if text in ("-0", "", "-") else text


def joined(numbers: list[str]) -> str:
    """Numbers of a path with no more between them than it takes to tell them apart."""
    text = ""
    for one in numbers:
        apart = "" if one.startswith("-") or not text else " "
        text += apart + one
    return text


def short_path(text: str, scale: float = 1.0, digits: int = 2) -> str:
    """A path's commands with steps in place of places, rounded; as it is if it has others.

    The steps lead from rounded place to rounded place, so that errors don't add up.
    """
    tokens = COMMAND.findall(text)
    if {token for token in tokens if token.isalpha()} - set("MLQCZz"):
        return text
    unit = 10**-digits
    out, now, start, last, at = [], (0, 0), (0, 0), "", 0
    command = ""
    while at < len(tokens):
        if tokens[at].isalpha():
            command = tokens[at].lower()
            at += 1
        numbers = []
        for _ in range(POINTS[command]):
            place = tuple(round(float(t) * scale / unit) for t in tokens[at : at + 2])
            numbers += [number((p - n) * unit, digits) for p, n in zip(place, now, strict=True)]
            at += 2
        if command != "z":
            now = place
        if command == "m":
            start = now
        elif command == "z":
            now = start
        # A command that goes on needs no letter, and lines go on after a move.
        goes_on = command == last or (command == "l" and last == "m")
        piece = joined(numbers)
        if goes_on and command not in "mz":
            out.append(("" if piece.startswith("-") else " ") + piece)
        else:
            out.append(command + piece)
        last = command
    return "".join(out)


def short_transform(text: str) -> str:
    """A transform with its numbers rounded."""

    def shorten(match: re.Match) -> str:
        digits = 2 if match[1] == "translate" else 5
        numbers = [number(float(n), digits) for n in NUMBER.findall(match[2])]
        return f"{match[1]}({' '.join(numbers)})"

    return re.sub(r"(\w+)\(([^)]*)\)", shorten, text).replace(") ", ")")


class Drawings:
    """The drawings of one page, and the shapes that they share."""

    def __init__(self, page: str):
        """Begin with none; `page` is named in warnings."""
        self.page = page
        self.shapes: dict[str, str] = {}
        self.count = 0

    def text_of(self, source: Path, attributes: dict[str, str]) -> str:
        """A drawing as an element of the page, with the attributes of the image it replaces."""
        root = ET.fromstring(source.read_text(encoding="utf-8"))
        self.names: dict[str, str] = {}
        self.source = source.name
        used = set()
        for element in root.iter():
            for key, value in element.attrib.items():
                if key.endswith("href") and value.startswith("#"):
                    used.add(value[1:])
                used.update(REFERENCE.findall(value))
        self.used = used
        self.letters = self.shared_letters(root)
        box = root.get("viewBox") or f"0 0 {number(points(root, 'width'))} 0"
        width, height = (round(points(root, side) * 4 / 3) for side in ("width", "height"))
        classes = " ".join(filter(None, [attributes.get("class"), "bn-drawing"]))
        style = f' style="{attributes["style"]}"' if "style" in attributes else ""
        sides = " ".join(map(short, box.split()))
        head = (
            f'<svg class="{classes}" role="img" aria-label="{attributes.get("alt", "")}" '
            f'width="{width}" height="{height}" viewBox="{sides}"{style}>'
        )
        return head + "".join(map(self.element, root)) + "</svg>"

    def shared_letters(self, root: ET.Element) -> dict[str, str]:
        """Give the shapes of letters a name for the whole page."""
        names = {}
        for element in root.iter():
            key = element.get("id", "")
            if element.get("transform") == "scale(0.015625)" and key in self.used:
                # A letter's unit is a hundredth of its height.
                shape = short_path(element.get("d", ""), 0.015625, 1)
                names[key] = self.shapes.setdefault(shape, f"bn-l{len(self.shapes)}")
        return names

    def name(self, key: str) -> str:
        """The name on this page of what has the name `key` in its own file."""
        if key in self.letters:
            return self.letters[key]
        if key not in self.names:
            self.count += 1
            self.names[key] = f"bn-d{self.count}"
        return self.names[key]

    def element(self, element: ET.Element) -> str:
        """An element and all in it as text."""
        tag = element.tag.rpartition("}")[2]
        if tag == "metadata" or element.get("id") in self.letters:
            return ""
        if tag == "style":
            if (element.text or "").strip() != JOINS:
                logger.warning("%s: %s brings a style sheet of its own", self.page, self.source)
            return ""
        inside = "".join(self.element(child) + (child.tail or "").strip() for child in element)
        inside = (element.text or "").strip() + inside
        attributes = self.attributes(tag, element)
        if tag in ("g", "defs") and not inside:
            return ""
        if tag == "g" and not attributes:
            return inside
        said = "".join(f' {key}="{escaped(value)}"' for key, value in attributes.items())
        return f"<{tag}{said}>{inside}</{tag}>" if inside else f"<{tag}{said}/>"

    def attributes(self, tag: str, element: ET.Element) -> dict[str, str]:
        """The attributes that matter, in few characters."""
        kept, style = {}, []
        for full, value in element.attrib.items():
            key = full.rpartition("}")[2]
            if key == "id":
                if value in self.used:
                    kept["id"] = self.name(value)
            elif key == "href" and value.startswith("#"):
                kept["href"] = f"#{self.name(value[1:])}"
            elif key == "style":
                style += [part.partition(":")[::2] for part in value.split(";") if part.strip()]
            elif key in PAINTED:
                style.append((key, value))
            elif key == "d":
                kept["d"] = short_path(value)
            elif key == "transform":
                kept["transform"] = short_transform(value)
            elif NUMBER.fullmatch(value):
                kept[key] = short(value)
            else:
                kept[key] = REFERENCE.sub(lambda m: f"url(#{self.name(m[1])})", value)
        if style:
            kept["style"] = ";".join(f"{k.strip()}:{self.value(k, v.strip())}" for k, v in style)
        return kept

    def value(self, key: str, value: str) -> str:
        """A value of a style: colors by their names, numbers rounded."""

        def named(match: re.Match) -> str:
            color = match[0].lower()
            color = "#" + "".join(2 * c for c in color[1:]) if len(color) == 4 else color
            if color in NAMES:
                return f"var(--bn-{NAMES[color]})"
            logger.warning(
                "%s: %s has the color %s, which bnutils.plots.COLORS has not",
                self.page,
                self.source,
                color,
            )
            return color

        if key.strip() in PAINTED:
            return COLOR.sub(named, value)
        return short(value) if NUMBER.fullmatch(value) else value

    def shared(self) -> str:
        """The shapes of letters that the page's drawings use, to stand before all of them."""
        if not self.shapes:
            return ""
        paths = "".join(f'<path id="{name}" d="{d}"/>' for d, name in self.shapes.items())
        return f'<svg class="bn-letters" width="0" height="0" aria-hidden="true">{paths}</svg>'


def short(text: str) -> str:
    """A number of an attribute, rounded."""
    return number(float(text))


def points(root: ET.Element, side: str) -> float:
    """A side of a drawing, in points of 1/72 inch."""
    text = root.get(side, "")
    value = float(NUMBER.match(text)[0])
    return value if text.endswith("pt") else value * 3 / 4


def escaped(text: str) -> str:
    """Text as an attribute's value."""
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def inlined(text: str, page: str, folder: Path) -> tuple[str, set[Path]]:
    """A page's text with its drawings in it, and the files they came from.

    Args:
        text: HTML.
        page: the page's name.
        folder: that of the page, from which addresses lead.
    """
    drawings, files = Drawings(page), set()

    def put(match: re.Match) -> str:
        source = (folder / unquote(match["source"])).resolve()
        attributes = dict(ATTRIBUTE.findall(match[0]))
        if source.parent.name != "_images":
            return with_size(match[0], source)
        if source.suffix != ".svg":
            return with_size(match[0], source)
        files.add(source)
        return drawings.text_of(source, attributes)

    text = IMAGE.sub(put, text)
    return text.replace("<article", drawings.shared() + "<article", 1), files


def with_size(tag: str, source: Path) -> str:
    """An image that is fetched when it is about to be seen, and has its room before."""
    known = ' loading="lazy" decoding="async"' if "loading=" not in tag else ""
    if source.suffix == ".png" and "width=" not in tag:
        header = source.read_bytes()[16:24]
        width, height = (int.from_bytes(header[i : i + 4], "big") for i in (0, 4))
        known += f' width="{width}" height="{height}"'
    return tag.replace("<img", f"<img{known}", 1)
