"""What an audit found: diagnoses, and how they print in a terminal, a log, a notebook and as JSON.

Nothing here needs TensorFlow.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from bnutils._markup import escaped
from bnutils.doctor.results import Result, Skipped, html_table, plain_text, printable, skipped_lines
from bnutils.doctor.words import count

__all__ = ["Diagnosis", "Report"]

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
class Report(Result):
    """All that an audit found, and all that it could not look at.

    Printed, the layers that a rule names stand together; in `diagnoses` and in JSON each has its
    own entry. In a notebook the report is a table.

    Args:
        model: name of the model.
        diagnoses: what was found; put in order, errors first.
        batch_norms: how many batch normalization layers the model has.
        checked: names of the rules that looked at the model.
        rows: how many rows of the data were used; None if none were given, or if the model has no
            `call` that they could go through.
        rows_are_the_first: whether these rows are the beginning of longer data, and not drawn
            from all over.
        skipped: parts of the model that could not be looked into, and rules that could not be
            tried or that these data do not let decide, as `Skipped`.

    Raises:
        ValueError: a field is not of its form.

    Example:
        >>> print(Report(model="small", batch_norms=2, checked=("dead-bias",), rows=64))
        small looks sound: 2 batch normalization layers, nothing wrong.
    """

    model: str
    batch_norms: int
    diagnoses: Sequence[Diagnosis] = ()
    checked: Sequence[str] = ()
    rows: int | None = None
    rows_are_the_first: bool = False
    skipped: Sequence[Skipped] = ()

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
        object.__setattr__(self, "checked", tuple(dict.fromkeys(self.checked)))
        object.__setattr__(self, "skipped", tuple(self.skipped))
        for each in self.skipped:
            if not isinstance(each, Skipped):
                raise ValueError(f"expected Skipped entries as skipped, got {each!r}")

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
    def faulty(self) -> bool:
        """Whether there is an error or a warning."""
        return bool(self.errors or self.warnings)

    @property
    def looked(self) -> bool:
        """Whether all could be looked at that the arguments of the audit allow."""
        could_not = [each for each in self.skipped if each.needs is None]
        return bool(self.batch_norms and self.checked and not could_not)

    @property
    def sound(self) -> bool:
        """Whether there is no error and no warning, and nothing that could not be looked at.

        A model that is neither `sound` nor `faulty` could not be looked at in full, or the data do
        not tell; see `skipped`. Without data the all-clear is about what the model alone shows.
        """
        return self.looked and not self.faulty

    @property
    def unwalked(self) -> tuple[tuple[str, str], ...]:
        """The parts of the model in `skipped`, as pairs (path, reason)."""
        return tuple((each.what, each.reason) for each in self.skipped if each.kind == "part")

    @property
    def not_checked(self) -> tuple[tuple[str, str], ...]:
        """The rules in `skipped`, as pairs (rule, reason)."""
        return tuple((each.what, each.reason) for each in self.skipped if each.kind == "rule")

    def only(self, diagnoses: Iterable[Diagnosis]) -> "Report":
        """The same report with some of its diagnoses alone."""
        return replace(self, diagnoses=tuple(diagnoses))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data, with the versions of the libraries.

        Returns:
            The fields by name, `sound`, `faulty`, how many diagnoses there are of each level as
            `counts`, `versions`, and `schema`, a number that grows when a key is removed or
            changes its meaning.
        """
        counts = {level: len(self._of_level(level)) for level in LEVELS}
        return {**super().to_dict(), "sound": self.sound, "faulty": self.faulty, "counts": counts}

    def __str__(self) -> str:
        """Plain text, 80 columns wide."""
        return plain_text(self)

    __repr__ = __str__

    def __rich_console__(self, console: Any, options: Any) -> Iterator[RenderableType]:
        """The same with colors, as wide as the terminal."""
        yield Text(printable(self._headline), style="bold green" if self.sound else "bold")
        for group in self._groups():
            first = group[0]
            parts = RichTable.grid(padding=(0, 2))
            for name, lines in [
                ("layer", [_layers(group)]),
                ("found", _each(group, "evidence")),
                ("why", _each(group, "why")),
                ("repair", _each(group, "repair")),
                ("read", [_chapter(first.chapter)]),
            ]:
                parts.add_row(Text(name, style="dim"), Text("\n".join(map(printable, lines))))
            yield Text()
            yield Text.assemble(
                (first.level.upper(), STYLES[first.level]), " ", (first.rule, "bold")
            )
            yield Padding(parts, (0, 0, 0, 2))
        if self._footnotes:
            yield Text()
        yield from (Text(printable(line)) for line in self._footnotes)

    def _repr_html_(self) -> str:
        text = escaped
        rows = [
            [
                f'<strong style="border-left:0.35rem solid {COLORS[group[0].level]};'
                f'padding-left:0.4rem">{group[0].level}</strong><br><code>{group[0].rule}</code>',
                text(_layers(group)),
                "<br>".join(map(text, _each(group, "evidence")))
                + "".join(f"<br><em>{text(line)}</em>" for line in _each(group, "why")),
                "<br>".join([*map(text, _each(group, "repair")), _named(group[0].chapter)]),
            ]
            for group in self._groups()
        ]
        heads = ("level", "layer", "found", "repair")
        return "\n".join(
            [
                f'<section class="bn-report" data-sound="{str(self.sound).lower()}">',
                f"<p><strong>{text(self._headline)}</strong></p>",
                *([html_table(heads, rows)] if rows else []),
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
        layers = count(self.batch_norms, "batch normalization layer")
        counts = [(level, len(self._of_level(level))) for level in LEVELS]
        found = ", ".join(count(number, level) for level, number in counts if number)
        if self.faulty:
            reach = "" if self.looked else ", as far as it could be looked into"
            return f"{model}: {found}, in {layers}{reach}."
        if not self.batch_norms:
            return f"{model} has no batch normalization layer that could be found."
        if not self.looked:
            return (
                f"{model} gets no all-clear, since not all could be checked: {layers}, "
                f"{found or 'nothing wrong'} in what could."
            )
        reach = "" if self.rows else ", as far as it shows without data"
        return f"{model} looks sound{reach}: {layers}, {found or 'nothing wrong'}."

    @property
    def _footnotes(self) -> list[str]:
        lines = []
        if self.rows_are_the_first:
            lines.append(
                f"The data are long: the first {count(self.rows, 'row')} were used. Rows that come "
                "in another order later may tell another story."
            )
        parts = [each for each in self.skipped if each.kind == "part"]
        rules = [each for each in self.skipped if each.kind == "rule"]
        lines += skipped_lines(parts, "Not looked into")
        return [*lines, *skipped_lines(rules, "Not checked")]


def _layers(group: Sequence[Diagnosis]) -> str:
    names = list(dict.fromkeys(diagnosis.layer or "the model" for diagnosis in group))
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


def _chapter(chapter: str) -> str:
    number, title = chapter.split("_", 1)
    return f"chapter {int(number)}, {title.replace('_', ' ')}"


def _named(chapter: str) -> str:
    """The chapter by name; the book's own pages make a link of it."""
    return f'<span class="bn-chapter" data-chapter="{chapter}">{_chapter(chapter)}</span>'


def _check_form(name: str, value: Any, pattern: str, form: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"expected {name} to be {form}, got {value!r}")
