"""What a page says of the book's making, read from the files that know it.

Directives for MyST pages:

- `{run-times}`: what each chapter costs to run, from book/run_times.json;
- `{records}`: how each record came about, from the record itself;
- `{versions}`: the packages of pyproject.toml, at the versions of requirements.lock;
- `{measured} NAME`: a table that a command measured, from book/measured/NAME.json.
"""

import json
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from bnutils import studies
from bnutils._markup import as_myst
from bnutils.evidence import provenance

TIMES = "book/run_times.json"
PROJECT = "pyproject.toml"
LOCK = "requirements.lock"
GROUPS = {"book": "the numbers", "site": "the pages", "test": "the tests"}

logger = logging.getLogger(__name__)


class _Made(SphinxDirective):
    """Renders MyST text, and builds its page again when one of the files it read changes."""

    def read(self, path: str) -> str:
        """The text of a file of the book."""
        self.env.note_dependency(path)
        return (Path(self.env.srcdir) / path).read_text(encoding="utf-8")

    def run(self):
        """Render."""
        return self.parse_text_to_nodes("\n".join(self.lines()))


class RunTimes(_Made):
    """`{run-times}`."""

    def lines(self):
        """A table with a row for each chapter, and their sum."""
        times = json.loads(self.read(TIMES))
        chapters = sorted((Path(self.env.srcdir) / "notebooks").glob("*.ipynb"))
        yield from ("| | chapter | seconds |", "|--:|---|--:|")
        for path in chapters:
            if path.stem not in times:
                logger.warning("%s lacks %s: run tools/notebooks.py", TIMES, path.name)
                continue
            title = f"{{doc}}`/notebooks/{path.stem}`"
            yield f"| {int(path.stem[:2])} | {title} | {times[path.stem]} |"
        yield f"| | all | {sum(times.get(path.stem, 0) for path in chapters)} |"


class Records(_Made):
    """`{records}`."""

    def lines(self):
        """A definition for each study: its question, its settings, and where and when it ran."""
        for name in studies.names():
            self.env.note_dependency(str(studies.RECORDS / f"{name}.nc"))
            study, history = studies.get(name), provenance(studies.load(name))
            grids = "; ".join(
                f"{dim.replace('_', ' ')}: {_shown(values)}" for dim, values in study.dims.items()
            )
            versions = ", ".join(
                f"{package} {history['versions'][package]}" for package in ("numpy", "bnutils")
            )
            ran = (
                f"{as_myst(history['date'])}, commit {as_myst(str(history['commit']))}, "
                f"{as_myst(history['processor'])}, {as_myst(versions)}, "
                f"{history['cpu_seconds']:,.0f} CPU seconds"
            )
            yield f"{name}"
            yield f": {as_myst(study.question)}"
            yield ""
            yield f"  {as_myst(grids)}."
            yield ""
            yield f"  {ran}."
            yield from (f"\n  *Changed:* {_told(change)}" for change in history["changes"])
            yield ""


def _shown(values) -> str:
    """The values of a setting; a long run of whole numbers by its ends."""
    whole = all(isinstance(value, int) for value in values)
    if whole and len(values) > 5 and values == tuple(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def _told(text: str) -> str:
    """A text from a record, in which names of studies between backticks stay code."""
    return re.sub(r"\\`([a-z]+)\\`", r"`\1`", as_myst(text))


class Versions(_Made):
    """`{versions}`."""

    def lines(self):
        """A table with a row for each group of dependencies."""
        read = tomllib.loads(self.read(PROJECT))
        pins = locked(self.read(LOCK))
        groups = {**read["project"]["optional-dependencies"], **read["dependency-groups"]}
        groups["book"] += read["project"]["dependencies"] + groups["doctor"]
        yield from ("| what makes | with |", "|---|---|")
        for group, made in GROUPS.items():
            names = sorted({Requirement(line).name for line in groups[group]} - {"bnutils"})
            yield f"| {made} | {', '.join(f'{name} {pins[name]}' for name in names)} |"


class Measured(_Made):
    """`{measured} NAME`: a head, rows of cells in MyST, and a note on how they were measured."""

    required_arguments = 1

    def lines(self):
        """The table, and its note under it."""
        table = json.loads(self.read(f"book/measured/{self.arguments[0]}.json"))
        columns = zip(table["head"], *table["rows"], strict=True)
        yield _row(table["head"])
        yield _row("--:" if all(map(_is_number, cells[1:])) else "---" for cells in columns)
        yield from map(_row, table["rows"])
        yield from ("", table["note"])


def _row(cells) -> str:
    # A hyphen may end a line, a true minus may not.
    text = re.sub(r"(?<=\de)-(?=\d)", "\N{MINUS SIGN}", " | ".join(map(str, cells)))
    return f"| {text} |"


def _is_number(cell) -> bool:
    return str(cell)[:1].isdigit() or isinstance(cell, int | float)


def locked(lock: str) -> dict[str, str]:
    """The version that a lock gives each package on this machine."""
    pins = {}
    for line in re.findall(r"^([\w.-]+==.*?) *\\?$", lock, re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[requirement.name] = str(requirement.specifier).removeprefix("==")
    return pins


def setup(app):
    """Connect the directives; Sphinx calls this."""
    app.add_directive("run-times", RunTimes)
    app.add_directive("records", Records)
    app.add_directive("versions", Versions)
    app.add_directive("measured", Measured)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
