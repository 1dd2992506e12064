"""The form of every notebook: executed as committed, captioned, and within the budget of a chapter.

nbval compares the outputs; it skips a cell that was never executed, so that is checked here.
"""

import json
import re
import statistics
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OPENING = ["What you'll see", "What you'll learn", "What you'll need"]
CLOSING = ["What we saw", "Exercises", "Further reading"]
CLAIM = "application/vnd.bnutils.claim+json"
SVG = "image/svg+xml"


def source(cell):
    return "".join(cell["source"])


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def data(cell, mime):
    return [o["data"][mime] for o in cell["outputs"] if mime in o.get("data", {})]


def tags(cell):
    return cell["metadata"].get("tags", [])


def solution(cell):
    return "hide-cell" in tags(cell)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def test_there_are_notebooks_and_the_contents_list_them_all():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    assert PATHS
    assert [f for f in listed if f.startswith("notebooks/")] == [
        f"notebooks/{path.stem}" for path in PATHS
    ]


def test_every_code_cell_ran_in_order_from_a_fresh_kernel(notebook):
    counts = [cell["execution_count"] for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_nothing_on_stderr_and_no_error(notebook):
    for cell in code(notebook):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", source(cell)
            assert output.get("name") != "stderr", source(cell)


def test_every_output_is_compared(notebook):
    for cell in code(notebook):
        text = source(cell) + " ".join(tags(cell))
        assert "nbval" not in text.lower(), "an ignored output needs a better way to print it"


def test_every_figure_has_alt_text_and_a_caption(notebook):
    for cell in code(notebook):
        drawn = len(data(cell, SVG)) + len(data(cell, "image/png"))
        assert drawn <= 1, f"one figure a cell, so that it can have its own caption: {source(cell)}"
        mystnb = cell["metadata"].get("mystnb", {})
        assert bool(drawn) == bool(mystnb), source(cell)
        if drawn:
            assert not data(cell, "image/png") or data(cell, SVG), "figures are SVG"
            assert len(mystnb["image"]["alt"].split()) >= 8, "alt text says what the figure shows"
            assert len(mystnb["figure"]["caption"].split()) >= 6, source(cell)
            assert mystnb["figure"]["name"].startswith("fig-"), source(cell)


def test_figure_names_and_claims_are_unique():
    names = []
    for path in PATHS:
        for cell in code(json.loads(path.read_text(encoding="utf-8"))):
            names += [claim["name"] for claim in data(cell, CLAIM)]
            if "mystnb" in cell["metadata"]:
                names.append(cell["metadata"]["mystnb"]["figure"]["name"])
    assert len(names) == len(set(names))


def test_exported_figures_are_those_of_the_notebook(notebook):
    for cell in code(notebook):
        if name := cell["metadata"].get("export"):
            drawn = "".join(data(cell, SVG)[0])
            file = ROOT / "book" / "_static" / f"{name}.svg"
            assert file.read_text(encoding="utf-8") == drawn, "run `make notebooks`"


def test_anatomy_of_a_chapter(notebook):
    text = "\n".join(source(c) for c in notebook["cells"] if c["cell_type"] == "markdown")
    headings = re.findall(r"^(#+) (.*)$", text, re.MULTILINE)
    assert [level for level, _ in headings].count("#") == 1
    assert headings[0][0] == "#"
    second = [title for level, title in headings if level == "##"]
    assert second[:3] == OPENING
    assert second[-3:] == CLOSING
    assert "**Predict first.**" in text


def test_budget_of_a_chapter(notebook):
    def lines(cells):
        return [sum(bool(line.strip()) for line in source(c).splitlines()) for c in cells]

    cells = code(notebook)
    # Plots, the fields of a claim and solutions are folded: they do not stand in a reader's way.
    unfolded = [c for c in cells if not {"hide-input", "hide-cell"} & set(tags(c))]
    words = sum(len(source(c).split()) for c in notebook["cells"] if c["cell_type"] == "markdown")
    assert len(cells) <= 30
    assert statistics.median(lines(unfolded)) <= 6
    assert words >= 10 * sum(lines(unfolded))
    assert words >= 6 * sum(lines(cells))
    kinds = "".join("s" if solution(c) else c["cell_type"][0] for c in notebook["cells"])
    assert "ccc" not in kinds, "three code cells without a sentence between them"


def test_exercises_have_solutions_that_ran(notebook):
    solutions = [cell for cell in code(notebook) if solution(cell)]
    assert len(solutions) >= 3
    for cell in solutions:
        assert cell["outputs"], "a solution shows what it found"


def test_nothing_ties_a_notebook_to_a_machine_or_a_day(notebook):
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert [c["id"] for c in notebook["cells"]] == [
        f"cell-{i:02d}" for i in range(1, len(notebook["cells"]) + 1)
    ]
    for cell in code(notebook):
        outputs = json.dumps(cell["outputs"])
        assert not re.search(r"/(home|root|Users|work|tmp)/|0x[0-9a-f]{8}", outputs), source(cell)
