"""What every result of the doctor can do: print, stand in a notebook as a table, become JSON.

Nothing here needs TensorFlow.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

import bnutils
from bnutils._markup import escaped

__all__ = ["Result", "Skipped", "Table", "html_table", "plain_text", "printable", "skipped_lines"]

SCHEMA = 2
WIDTH = 80  # of a CI log, and of most terminals
#: The `metadata` of a dataclass field that is no plain data, such as a model.
NOT_PLAIN = {"plain": False}


class Skipped(NamedTuple):
    """Something that was left undone, and why.

    Attributes:
        what: the path of a layer or of a part of the model ("" is the model itself), the name of
            a rule, or a step in words, such as "compile".
        reason: why, in half a sentence.
        kind: "part" of a model, "rule" of the audit, or, of `fold`, its "proof" and what is
            "unseen".
        needs: the argument that would let it be done, such as "data"; None if it could not be
            done with what was given.
    """

    what: str
    reason: str
    kind: str = "part"
    needs: str | None = None


@dataclass(frozen=True)
class Table:
    """A table, to be shown as text or as HTML.

    Args:
        heads: the heads of the columns.
        rows: the cells of each row.

    Raises:
        ValueError: a row with more or fewer cells than there are heads.

    Example:
        >>> print(Table(["layer", "went into"], [["bn1", "conv1"], ["bn2", "dense"]]))
        layer  went into
        bn1    conv1
        bn2    dense
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        """Check the rows."""
        for row in self.rows:
            if len(row) != len(self.heads):
                raise ValueError(f"expected rows of {len(self.heads)} cells, got {row!r}")

    def __str__(self) -> str:
        """At most 80 columns wide; long cells are wrapped."""
        table = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for head in self.heads:
            table.add_column(Text(head))
        for row in self.rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        return plain_text(table)

    def _repr_html_(self) -> str:
        """Everything escaped, in colors that suit light and dark pages."""
        return html_table(
            [escaped(head) for head in self.heads],
            [[escaped(cell) for cell in row] for row in self.rows],
        )


class Result:
    """The protocol of every result; subclasses are dataclasses and say what to show.

    Attributes:
        skipped: what was left undone, and why.
    """

    skipped: tuple[Skipped, ...]

    def _shown(self) -> Iterator[str | Table]:
        """The sentences and tables of the result, the headline first."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data, with the versions of the libraries.

        Returns:
            The fields by name; a number that is not finite becomes None. `schema` is a number that
            grows when a key is removed or changes its meaning.
        """
        return {"schema": SCHEMA, "versions": versions(), **_plain(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as a JSON text.

        Args:
            indent: spaces per level; None for one line.
        """
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        """Plain text, 80 columns wide."""
        shown = [part for part in self._shown() if not isinstance(part, Table) or part.rows]
        return "\n".join(
            str(part) if isinstance(part, Table) else plain_text(Text(printable(part)))
            for part in shown
        )

    def __repr__(self) -> str:
        """The text: a result is there to be read."""
        return str(self)

    def _repr_html_(self) -> str:
        parts = [
            part._repr_html_() if isinstance(part, Table) else f"<p>{escaped(part)}</p>"
            for part in self._shown()
            if not isinstance(part, Table) or part.rows
        ]
        return "\n".join(["<section>", *parts, "</section>"])


def skipped_lines(skipped: Iterable[Skipped], start: str = "Left undone") -> Iterator[str]:
    """A sentence for each reason, with all that was left undone for it."""
    return grouped_lines([(each.what or "the model", each.reason) for each in skipped], start)


def grouped_lines(
    pairs: Iterable[tuple[str, str]], start: str, shown: int | None = None
) -> Iterator[str]:
    """A sentence for each text in pairs (name, text), with the names that it stands with.

    Args:
        pairs: the pairs.
        start: how each sentence begins.
        shown: so many names at the most; all if it is None.

    Example:
        >>> list(grouped_lines([("a", "renamed"), ("b", "moved"), ("c", "renamed")], "Changed"))
        ['Changed: a, c (renamed).', 'Changed: b (moved).']
    """
    groups: dict[str, list[str]] = {}
    for name, text in pairs:
        groups.setdefault(text, []).append(name)
    for text, names in groups.items():
        kept = names[:shown]
        more = f" and {len(names) - len(kept)} more" if len(kept) < len(names) else ""
        yield f"{start}: {', '.join(kept)}{more} ({text})."


def versions() -> dict[str, str]:
    """The versions of this package and of the libraries that it looks at."""
    found = {"bnutils": bnutils.__version__}
    for name in ("keras", "tensorflow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def plain_text(renderable: Any) -> str:
    """The text of something that rich can print, 80 columns wide, without colors."""
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


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table out of pieces of HTML. Styles are inline: a reader's notebook has no style sheet."""
    style = 'style="text-align:left;vertical-align:top;white-space:normal"'
    top = "".join(f'<th scope="col" {style}>{head}</th>' for head in heads)
    body = "\n".join(
        f"<tr>{''.join(f'<td {style}>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<table class="bn-table"><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    )


def printable(text: str) -> str:
    """The text with control characters spelled out: a layer's name may hold any."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        kept = [each for each in fields(value) if each.metadata.get("plain", True)]
        return {each.name: _plain(getattr(value, each.name)) for each in kept}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
