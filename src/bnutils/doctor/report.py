"""What an audit found: diagnoses, and how they print in a terminal, a log, a notebook and as JSON.

Also the one look of the doctor's tables, `table_text` and `table_html`. Nothing here needs
TensorFlow.
"""

import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import bnutils

__all__ = ["Diagnosis", "Report", "table_html", "table_text"]

SCHEMA = 1
WIDTH = 80  # of a CI log, and of most terminals
SHOWN = 3  # layers of one rule that print spells out
LEVELS = ("error", "warning", "note")
STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold blue"}
COLORS = {"error": "#d55e00", "warning": "#b8860b", "note": "#0072b2"}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One thing that an audit found in one layer.

    Args:
        rule: the rule's identifier in lower case with hyphens, such as "stale-statistics".
        level: "error" (the model is wrong, or does not do what its author plainly asked),
            "warning" (an expert would change it) or "note" (worth knowing).
        layer: path of the layer, such as "base/block1/bn"; empty for the model as a whole.
        evidence: what was found, in a sentence with numbers.
        why: why it matters, in a sentence.
        repair: what mends it, in a sentence.
        chapter: the chapter that explains it, such as "06_training_and_inference".

    Raises:
        ValueError: a field is not of its form.

    Example:
        >>> found = Diagnosis(
        ...     rule="stale-statistics",
        ...     level="error",
        ...     layer="bn",
        ...     evidence="The moving mean is 3.1 standard deviations from the mean of the data.",
        ...     why="Inference normalizes with these statistics.",
        ...     repair="Call recalibrate(model, data).",
        ...     chapter="06_training_and_inference",
        ... )
        >>> found.level
        'error'
    """

    rule: str
    level: Literal["error", "warning", "note"]
    layer: str
    evidence: str
    why: str
    repair: str
    chapter: str

    def __post_init__(self) -> None:
        """Check every field."""
        _check_form("rule", self.rule, r"[a-z]+(-[a-z]+)*", "a name like 'stale-statistics'")
        _check_form("chapter", self.chapter, r"\d\d_[a-z_]+", "a name like '09_fine_tuning'")
        if self.level not in LEVELS:
            raise ValueError(f"expected a level of {LEVELS}, got {self.level!r}")
        if not isinstance(self.layer, str):
            raise ValueError(f"expected the path of a layer, got {self.layer!r}")
        for name in ("evidence", "why", "repair"):
            _check_form(name, getattr(self, name), r"(?s).*\S.*", "a sentence")


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """All that an audit found, and all that it could not look at.

    Printed, the layers that a rule names stand together; in `diagnoses` and in JSON each has its
    own entry. In a notebook the report is a table.

    Args:
        model: name of the model.
        diagnoses: what was found; put in order, errors first.
        batch_norms: how many batch normalization layers the model has.
        unwalked: parts of the model that could not be looked into, as pairs (path, reason).
        not_checked: rules that were not tried, as pairs (rule, reason).

    Raises:
        ValueError: a field is not of its form.

    Example:
        >>> print(Report(model="small", batch_norms=2))
        small looks sound: 2 batch normalization layers, nothing wrong.
    """

    model: str
    batch_norms: int
    diagnoses: Sequence[Diagnosis] = ()
    unwalked: Sequence[tuple[str, str]] = ()
    not_checked: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        """Check every field and put the diagnoses in order."""
        if not isinstance(self.model, str):
            raise ValueError(f"expected the name of a model, got {self.model!r}")
        if type(self.batch_norms) is not int or self.batch_norms < 0:
            raise ValueError(f"expected a number of layers, got {self.batch_norms!r}")
        diagnoses = tuple(self.diagnoses)
        for diagnosis in diagnoses:
            if not isinstance(diagnosis, Diagnosis):
                raise ValueError(f"expected a Diagnosis, got {diagnosis!r}")
        ranked = sorted(diagnoses, key=lambda diagnosis: LEVELS.index(diagnosis.level))
        object.__setattr__(self, "diagnoses", tuple(ranked))
        for name in ("unwalked", "not_checked"):
            pairs = tuple(tuple(pair) for pair in getattr(self, name))
            if not all(len(pair) == 2 and all(isinstance(p, str) for p in pair) for pair in pairs):
                raise ValueError(f"expected pairs of texts as {name}, got {pairs!r}")
            object.__setattr__(self, name, pairs)

    @property
    def errors(self) -> tuple[Diagnosis, ...]:
        """The diagnoses of level "error"."""
        return self._of_level("error")

    @property
    def warnings(self) -> tuple[Diagnosis, ...]:
        """The diagnoses of level "warning"."""
        return self._of_level("warning")

    @property
    def notes(self) -> tuple[Diagnosis, ...]:
        """The diagnoses of level "note"."""
        return self._of_level("note")

    @property
    def sound(self) -> bool:
        """Whether there is no error and no warning."""
        return not self.errors and not self.warnings

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data, with the versions of the libraries.

        Returns:
            The fields by name, each diagnosis, unwalked part and unchecked rule as an object, and
            `schema`, a number that grows when a key is removed or changes its meaning.
        """
        return {
            "schema": SCHEMA,
            "versions": {
                "bnutils": bnutils.__version__,
                **{name: _version(name) for name in ("keras", "tensorflow")},
            },
            "model": self.model,
            "batch_norms": self.batch_norms,
            "sound": self.sound,
            "counts": {level: len(self._of_level(level)) for level in LEVELS},
            "diagnoses": [asdict(diagnosis) for diagnosis in self.diagnoses],
            "unwalked": [{"path": path, "reason": reason} for path, reason in self.unwalked],
            "not_checked": [{"rule": rule, "reason": reason} for rule, reason in self.not_checked],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as a JSON text.

        Args:
            indent: spaces per level; None for one line.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        """Plain text, 80 columns wide."""
        return _plain_text(self)

    __repr__ = __str__

    def __rich_console__(self, console: Any, options: Any) -> Iterator[RenderableType]:
        """The same with colors, as wide as the terminal."""
        yield Text(_printable(self._headline), style="bold green" if self.sound else "bold")
        for group in self._groups():
            first = group[0]
            parts = Table.grid(padding=(0, 2))
            for name, lines in [
                ("layer", [_layers(group)]),
                ("found", _each(group, "evidence")),
                ("why", _each(group, "why")),
                ("repair", _each(group, "repair")),
                ("read", [_chapter(first.chapter)]),
            ]:
                parts.add_row(Text(name, style="dim"), Text("\n".join(map(_printable, lines))))
            yield Text()
            yield Text.assemble(
                (first.level.upper(), STYLES[first.level]), " ", (first.rule, "bold")
            )
            yield Padding(parts, (0, 0, 0, 2))
        if self._footnotes:
            yield Text()
        yield from (Text(_printable(line)) for line in self._footnotes)

    def _repr_html_(self) -> str:
        text = html.escape
        rows = [
            [
                f'<strong style="border-left:0.35rem solid {COLORS[group[0].level]};'
                f'padding-left:0.4rem">{group[0].level}</strong><br><code>{group[0].rule}</code>',
                text(_layers(group)),
                "<br>".join(map(text, _each(group, "evidence")))
                + "".join(f"<br><em>{text(line)}</em>" for line in _each(group, "why")),
                "<br>".join([*map(text, _each(group, "repair")), _link(group[0].chapter)]),
            ]
            for group in self._groups()
        ]
        heads = ("level", "layer", "found", "repair")
        return "\n".join(
            [
                f'<section class="bn-report" data-sound="{str(self.sound).lower()}">',
                f"<p><strong>{text(self._headline)}</strong></p>",
                *([_html_table(heads, rows)] if rows else []),
                *(f"<p>{text(line)}</p>" for line in self._footnotes),
                "</section>",
            ]
        )

    def _of_level(self, level: str) -> tuple[Diagnosis, ...]:
        return tuple(diagnosis for diagnosis in self.diagnoses if diagnosis.level == level)

    def _groups(self) -> list[list[Diagnosis]]:
        """The diagnoses of each rule and level together, in order."""
        groups: dict[tuple[str, str], list[Diagnosis]] = {}
        for diagnosis in self.diagnoses:
            groups.setdefault((diagnosis.level, diagnosis.rule), []).append(diagnosis)
        return list(groups.values())

    @property
    def _headline(self) -> str:
        model = self.model or "The model"
        if not self.batch_norms and not self.diagnoses:
            return f"{model} has no batch normalization layer that could be found."
        layers = _count(self.batch_norms, "batch normalization layer")
        counts = [(level, len(self._of_level(level))) for level in LEVELS]
        found = ", ".join(_count(number, level) for level, number in counts if number)
        reach = ", as far as it could be looked into" if self.unwalked else ""
        if not self.sound:
            return f"{model}: {found}, in {layers}{reach}."
        return f"{model} looks sound{reach}: {layers}, {found or 'nothing wrong'}."

    @property
    def _footnotes(self) -> list[str]:
        lines = [
            f"Not looked into: {path or 'the model'} ({reason})." for path, reason in self.unwalked
        ]
        for reason in _unique(reason for _, reason in self.not_checked):
            rules = ", ".join(rule for rule, other in self.not_checked if other == reason)
            lines.append(f"Not checked ({reason}): {rules}.")
        return lines


def table_text(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as plain text, at most 80 columns wide; long cells are wrapped.

    Args:
        heads: the heads of the columns.
        rows: the cells of each row.

    Returns:
        Lines without trailing spaces or a newline at the end.

    Raises:
        ValueError: a row with more or fewer cells than there are heads.

    Example:
        >>> print(table_text(["layer", "went into"], [["bn1", "conv1"], ["bn2", "dense"]]))
        layer  went into
        bn1    conv1
        bn2    dense
    """
    rows = _checked_rows(heads, rows)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(Text(head))
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    return _plain_text(table)


def table_html(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same table as HTML, everything escaped, in colors that suit light and dark pages.

    Args:
        heads: the heads of the columns.
        rows: the cells of each row.

    Returns:
        A `<table>` element.

    Raises:
        ValueError: a row with more or fewer cells than there are heads.
    """
    rows = _checked_rows(heads, rows)
    return _html_table(
        [html.escape(head) for head in heads], [[html.escape(cell) for cell in row] for row in rows]
    )


def _html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table out of pieces of HTML. Styles are inline: a reader's notebook has no style sheet."""
    style = 'style="text-align:left;vertical-align:top;white-space:normal"'
    top = "".join(f'<th scope="col" {style}>{head}</th>' for head in heads)
    body = "\n".join(
        f"<tr>{''.join(f'<td {style}>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<table class="bn-table"><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    )


def _checked_rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[Sequence[str]]:
    rows = list(rows)
    for row in rows:
        if len(row) != len(heads):
            raise ValueError(f"expected rows of {len(heads)} cells, got {row!r}")
    return rows


def _plain_text(renderable: Any) -> str:
    # Every setting is fixed: a notebook, a terminal and a log must give the same text.
    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        highlight=False,
    )
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().split("\n"))


def _printable(text: str) -> str:
    """The text with control characters spelled out: a layer's name may hold any."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _layers(group: Sequence[Diagnosis]) -> str:
    names = _unique(diagnosis.layer or "the model" for diagnosis in group)
    if len(names) == 1:
        return names[0]
    return f"{len(names)} layers: {', '.join(names[:SHOWN])}{', ...' if names[SHOWN:] else ''}"


def _each(group: Sequence[Diagnosis], field: str) -> list[str]:
    """What each diagnosis of a group says in a field; said once if all of them say the same."""
    texts = [getattr(diagnosis, field) for diagnosis in group]
    if len(set(texts)) == 1:
        return texts[:1]
    names = [diagnosis.layer or "the model" for diagnosis in group]
    lines = [
        text if name in text else f"{name}: {text}" for name, text in zip(names, texts, strict=True)
    ]
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"and {more} more, which the JSON form lists"] if more > 0 else [])]


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _chapter(chapter: str) -> str:
    number, title = chapter.split("_", 1)
    return f"chapter {int(number)}, {title.replace('_', ' ')}"


def _link(chapter: str) -> str:
    number = int(chapter[:2])
    href = f'data-chapter="{chapter}" href="{chapter}.ipynb"'
    return f'<a class="bn-chapter" {href}>chapter {number}</a>'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _check_form(name: str, value: Any, pattern: str, form: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"expected {name} to be {form}, got {value!r}")
