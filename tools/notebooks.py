"""Execute notebooks in place, each in a fresh kernel, and leave nothing in them that varies.

`python tools/notebooks.py notebooks/01_motivation.ipynb ...`

Two notebooks run at a time. At the end, a table says what each took; book/run_times.json keeps it
for the book's readers. A cell whose metadata hold `"export": ["NAME"]` has its figure written to
book/_static/NAME.svg; under a NAME that ends in -dark, in the colors of dark pages.
"""

import base64
import io
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image  # Matplotlib brings it along: it writes its PNG files

from bnutils._writing import replace
from bnutils.plots import COLORS, without_ground

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "book" / "_static"
TIMES = ROOT / "book" / "run_times.json"
SVG, PNG = "image/svg+xml", "image/png"
# What the tags of a cell, which fold it on the book's pages, mean to JupyterLab.
FOLDED = {
    "hide-input": {"source_hidden": True},
    "hide-output": {"outputs_hidden": True},
    "hide-cell": {"source_hidden": True, "outputs_hidden": True},
}


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Keep only metadata that say something about the chapter, in place."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number:02d}"
        cell.metadata.pop("execution", None)
        fold(cell)
        for output in cell.get("outputs", []):
            if PNG in output.get("data", {}):
                output.data[PNG] = shrink(output.data[PNG])


def fold(cell: nbformat.NotebookNode) -> None:
    """Fold a cell in JupyterLab where its tags fold it on the book's pages, in place."""
    cell.metadata.pop("jupyter", None)
    for tag in cell.metadata.get("tags", []):
        if cell.cell_type == "code" and tag in FOLDED:
            cell.metadata.setdefault("jupyter", {}).update(FOLDED[tag])


def shrink(png: str) -> str:
    """Keep the 128 colors that a drawing needs most: a third of the bytes, no visible loss.

    Args:
        png: A picture in base64.

    Returns:
        The same picture in base64; a second time the same bytes.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode != "P":
        picture = picture.convert("RGB")
        picture = picture.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def darkened(svg: str) -> str:
    """The figure in the colors of dark pages."""
    dark = dict(COLORS.values())
    return re.sub("|".join(dark), lambda color: dark[color[0]], svg)


def export_figures(notebook: nbformat.NotebookNode) -> None:
    """Write the figures that other pages show."""
    for cell in notebook.cells:
        for name in cell.metadata.get("export", []):
            svg = next(o.data[SVG] for o in cell.outputs if SVG in o.get("data", {}))
            svg = without_ground(svg)
            svg = darkened(svg) if name.endswith("-dark") else svg
            _write(STATIC / f"{name}.svg", svg)


def execute(path: Path) -> tuple[str, float, float]:
    """Run one notebook from a fresh kernel; return its name, wall seconds and CPU seconds."""
    notebook = nbformat.read(path, as_version=4)
    os.environ["BNUTILS_PROGRESS"] = "0"  # no progress bar in an output that is kept
    start = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    wall = time.perf_counter() - start
    cpu = os.times().children_user + os.times().children_system
    normalise(notebook)
    nbformat.validate(notebook)
    _write(path, nbformat.writes(notebook) + "\n")
    export_figures(notebook)
    return path.stem, wall, cpu


def record_times(seconds: dict[str, float], file: Path = TIMES) -> None:
    """Write down the CPU seconds of the notebooks of this book that have changed noticeably.

    Each run takes a little more or less. What is within a quarter, or within two seconds, of what
    the file says is not written, so that the file changes only when a chapter has.
    """
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    there = {path.stem for path in (file.parents[1] / "notebooks").glob("*.ipynb")}
    for name, new in seconds.items():
        if name not in known or abs(new - known[name]) > max(2, known[name] / 4):
            known[name] = round(new)
    kept = {name: known[name] for name in sorted(known) if name in there}
    _write(file, json.dumps(kept, indent=2) + "\n")


def _write(file: Path, text: str) -> None:
    """Whoever reads meanwhile, or runs the same, sees the old file or the new one, whole."""
    replace(file, lambda new: new.write_text(text, encoding="utf-8"))


def main() -> None:
    """Execute the notebooks named on the command line."""
    paths = [Path(argument).resolve() for argument in sys.argv[1:]]
    seconds = {}
    # A worker runs one notebook only, so that its children's CPU time is that notebook's.
    with ProcessPoolExecutor(max_workers=2, max_tasks_per_child=1) as pool:
        try:
            for name, wall, cpu in pool.map(execute, paths):
                if cpu:  # which Windows does not tell
                    seconds[name] = cpu
                print(f"  {name:24s} {wall:6.1f} s wall {cpu:6.1f} s CPU")
        except CellExecutionError as error:
            sys.exit(str(error))
    print(f"  {'all':24s} {'':13s} {sum(seconds.values()):6.1f} s CPU")
    record_times(seconds)


if __name__ == "__main__":
    main()
