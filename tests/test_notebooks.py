"""The form of every notebook: executed as committed, captioned, and within the budget of a chapter.

nbval compares the outputs; it skips a cell that was never executed, so that is checked here.
"""

import ast
import base64
import importlib.util
import io
import json
import re
import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml
from matplotlib.colors import to_rgb
from PIL import Image

from bnutils import plots

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OPENING = ["What you'll learn", "What you'll need"]
CLOSING = ["What we saw", "Evidence", "Exercises", "Further reading"]
CLAIM = "application/vnd.bnutils.claim+json"
SVG, PNG, HTML = "image/svg+xml", "image/png", "text/html"
# What JupyterLab shows of a notebook that nobody has run yet on this machine.
SHOWN_WITHOUT_TRUST = {PNG, HTML, "text/plain", "text/markdown", "text/latex"}


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


def picture(png):
    return Image.open(io.BytesIO(base64.b64decode(png)))


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tool", ROOT / "tools" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


CAPTION = re.compile(r"\*\*Figure (?P<number>\d+\.\d+)\.\*\* (?P<text>.+?)(?:\n\n|\Z)", re.DOTALL)
TOUCH = re.compile(r"^\*\*Figure to touch: [\w, -]+\.\*\* .+?(?:\n\n|\Z)", re.DOTALL | re.MULTILINE)


def test_every_figure_has_alt_text_and_under_it_its_caption(notebook):
    numbers = []
    for cell, below in zip(notebook["cells"], [*notebook["cells"][1:], None], strict=True):
        figures = len(data(cell, SVG)) if cell["cell_type"] == "code" else 0
        assert figures <= 1, f"one figure a cell, so that it can have its own caption: {cell}"
        mystnb = cell["metadata"].get("mystnb", {})
        assert bool(figures) == bool(mystnb), source(cell)
        if figures:
            assert len(mystnb["image"]["alt"].split()) >= 8, "alt text says what the figure shows"
            assert list(mystnb["figure"]) == ["name"], "the caption stands under the figure"
            assert mystnb["figure"]["name"].startswith("fig-"), source(cell)
            caption = CAPTION.match(source(below))
            assert len(caption["text"].split()) >= 6, source(below)
            numbers.append(caption["number"].split("."))
    assert [int(figure) for _, figure in numbers] == list(range(1, len(numbers) + 1))
    assert len({chapter for chapter, _ in numbers}) == 1


def test_figures_bear_the_number_of_their_chapter():
    for path in PATHS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found = [match for cell in cells if (match := CAPTION.match(source(cell)))]
        assert found
        assert {m["number"].split(".")[0] for m in found} == {str(int(path.stem[:2]))}


def test_prose_reads_well_raw(notebook):
    numbers = {}
    for cell, below in zip(notebook["cells"], [*notebook["cells"][1:], None], strict=True):
        if name := cell["metadata"].get("mystnb", {}).get("figure", {}).get("name"):
            numbers[name] = CAPTION.match(source(below))["number"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = re.sub(
                r"```.*?```|`[^`]*`", lambda m: "`" if m[0][3:4] == "{" else "", source(cell)
            )
            raw = re.findall(r"\{[\w:]+\}`|^\s*(?:`{3,}|:{3,})\{|^\(.+\)=$|^%", text, re.MULTILINE)
            assert not raw, f"only the site can read {raw}: {source(cell)}"
            # What JupyterLab and Colab cannot follow, the words have to tell.
            for said, name in re.findall(r"\[figure (\d+\.\d+)\]\(#(fig-[\w-]+)\)", source(cell)):
                assert numbers[name] == said


def prose(notebook):
    """The text of a chapter without its exercises, and without captions."""
    section, kept = "", []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = TOUCH.sub("", CAPTION.sub("", source(cell)))
            for part in re.split(r"^(?=## )", text, flags=re.MULTILINE):
                section = part.partition("\n")[0] if part.startswith("## ") else section
                kept += [part] * (section != "## Exercises")
    return "\n".join(kept)


def test_a_chapter_can_be_read_in_one_sitting(notebook):
    assert len(prose(notebook).split()) <= 2000


def test_a_chapter_opens_with_a_question_and_a_picture(notebook):
    first, second, *_ = notebook["cells"]
    assert first["cell_type"] == "markdown"
    assert "?" in source(first)
    assert "hide-input" in tags(second)
    assert data(second, SVG)


def answer_cell(cell):
    return cell["cell_type"] == "code" and source(cell).startswith("# Your answer\n")


def test_each_exercise_has_a_place_to_answer_in_with_its_check_ready(notebook):
    cells, found = notebook["cells"], 0
    for question, place, solved in zip(cells, cells[1:], cells[2:], strict=False):
        if not re.search(r"^### Exercise \d", source(question), re.MULTILINE):
            continue
        found += 1
        assert answer_cell(place), source(question)
        assert re.search(r"checks\.\w+\(", source(place)), source(question)
        assert "..." in source(place)
        assert tags(place) == ["remove-output"], "a page shows what to run, not that nobody did"
        said = json.dumps(place["outputs"])
        assert "Not yet" in said
        assert "Right." not in said
        assert solution(solved), source(question)
    assert found >= 3
    text = "\n".join(source(cell) for cell in cells)
    assert found == len(re.findall(r"^### Exercise \d", text, re.MULTILINE))


def test_a_notebook_shows_all_it_has_before_it_is_trusted(notebook):
    for cell in code(notebook):
        for output in cell["outputs"]:
            mimes = set(output.get("data", {}))
            if mimes:
                best = mimes - {CLAIM, "text/plain"} or mimes
                assert best & SHOWN_WITHOUT_TRUST, source(cell)
        for html in data(cell, HTML):
            # Its sanitizer takes these out of a notebook that it does not trust.
            gone = re.search(r"<(script|iframe|object|svg|canvas|form)|\bon\w+=", "".join(html))
            assert gone is None, source(cell)


def test_figures_can_be_read_on_a_dark_and_on_a_light_theme(notebook):
    for cell in code(notebook):
        assert len(data(cell, PNG)) == len(data(cell, SVG)), source(cell)
        for png, svg in zip(data(cell, PNG), data(cell, SVG), strict=True):
            drawn = picture(png)
            assert_light_ground(drawn)
            svg = "".join(svg)
            inches = float(re.search(r'<svg[^>]*\bwidth="([\d.]+)pt"', svg)[1]) / 72
            assert drawn.width >= 2 * 96 * inches, "two pixels for each of a common screen"
            assert plots.without_ground(svg) != svg, "the labels are dark: the SVG needs a ground"


def assert_light_ground(drawn):
    assert "transparency" not in drawn.info
    assert drawn.mode in ("P", "RGB"), "no pixel is transparent"
    across, down = drawn.width - 1, drawn.height - 1
    ground = [drawn.convert("RGB").getpixel(at) for at in [(0, 0), (across, 0), (0, down)]]
    assert set(ground) == {tuple(round(255 * part) for part in to_rgb(plots.GROUND))}


def test_solutions_and_plumbing_are_closed_in_jupyterlab_too(notebook):
    for cell in code(notebook):
        wanted = {}
        if solution(cell):
            wanted = {"source_hidden": True, "outputs_hidden": True}
        elif "hide-input" in tags(cell):
            wanted = {"source_hidden": True}
        assert cell["metadata"].get("jupyter", {}) == wanted, source(cell)


def test_a_tag_folds_a_cell_and_without_it_the_cell_opens_again(tool):
    cell = nbformat.v4.new_code_cell("1", metadata={"tags": ["hide-cell"]})
    tool.fold(cell)
    assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}
    cell.metadata.tags = ["hide-input"]
    tool.fold(cell)
    assert cell.metadata.jupyter == {"source_hidden": True}
    del cell.metadata["tags"]
    tool.fold(cell)
    assert cell.metadata == {}


def test_stored_pictures_are_small_and_keep_their_ground_and_lines(tool):
    file, line = io.BytesIO(), plots.ARMS["no BN"]["color"]
    with plt.rc_context():
        plots.use_style()
        _, ax = plt.subplots()
        ax.plot([0, 1, 3, 2], color=line)
        ax.set_xlabel("steps")
        plt.savefig(file, format="png", dpi=200)
        plt.close()
    before = base64.b64encode(file.getvalue()).decode("ascii")
    after = tool.shrink(before)
    assert len(after) < len(before) / 2
    assert tool.shrink(before) == after
    assert tool.shrink(after) == after
    assert picture(after).size == picture(before).size
    assert_light_ground(picture(after))
    colors = [color for _, color in picture(after).convert("RGB").getcolors(1000)]
    for kept in (line, plots.INK):
        assert tuple(round(255 * part) for part in to_rgb(kept)) in colors


def test_figure_names_and_claims_are_unique():
    names = []
    for path in PATHS:
        for cell in code(json.loads(path.read_text(encoding="utf-8"))):
            names += [claim["name"] for claim in data(cell, CLAIM)]
            if "mystnb" in cell["metadata"]:
                names.append(cell["metadata"]["mystnb"]["figure"]["name"])
    assert len(names) == len(set(names))


def test_exported_figures_are_those_of_the_notebook(notebook, tool):
    for cell in code(notebook):
        for name in cell["metadata"].get("export", []):
            drawn = plots.without_ground("".join(data(cell, SVG)[0]))
            if name.endswith("-dark"):
                drawn = tool.darkened(drawn)
                assert plots.INK not in drawn
            file = ROOT / "book" / "_static" / f"{name}.svg"
            assert file.read_text(encoding="utf-8") == drawn, "run `make notebooks`"


def test_anatomy_of_a_chapter(notebook):
    text = "\n".join(source(c) for c in notebook["cells"] if c["cell_type"] == "markdown")
    headings = re.findall(r"^(#+) (.*)$", text, re.MULTILINE)
    assert [level for level, _ in headings].count("#") == 1
    assert headings[0][0] == "#"
    second = [title for level, title in headings if level == "##"]
    assert second[:2] == OPENING
    assert second[-4:] == CLOSING
    assert "**Predict first.**" in text


def test_budget_of_a_chapter(notebook):
    def lines(cells):
        return [sum(bool(line.strip()) for line in source(c).splitlines()) for c in cells]

    cells = code(notebook)
    # Plots, the fields of a claim and solutions are folded: they do not stand in a reader's way.
    cells = [c for c in cells if not answer_cell(c)]
    unfolded = [c for c in cells if not {"hide-input", "hide-cell"} & set(tags(c))]
    words = sum(len(source(c).split()) for c in notebook["cells"] if c["cell_type"] == "markdown")
    assert sum("studies.claim(" not in source(c) for c in cells) <= 30  # a card is one line
    assert statistics.median(lines(unfolded)) <= 6
    assert words >= 10 * sum(lines(unfolded))
    assert words >= 6 * sum(lines(cells))
    kinds = "".join("s" if solution(c) else c["cell_type"][0] for c in notebook["cells"])
    assert "ccc" not in kinds, "three code cells without a sentence between them"


def folded(cell):
    return "hide-input" in tags(cell)


def test_little_is_folded_and_nothing_that_a_later_cell_needs(notebook):
    def lines(cells):
        return sum(bool(line.strip()) for c in cells for line in source(c).splitlines())

    cells = [c for c in code(notebook) if not solution(c)]
    assert lines(filter(folded, cells)) <= lines(cells) / 5

    hidden = set()
    for cell in code(notebook):
        tree = ast.parse(source(cell))
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        stored |= {d.name for d in tree.body if isinstance(d, ast.FunctionDef | ast.ClassDef)}
        stored |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        assert not (used - stored) & hidden, f"cell {cell['id']} needs what a folded cell defines"
        hidden = hidden | (stored - {"_"}) if folded(cell) else hidden - stored


def test_a_chapter_has_a_live_run_that_can_be_changed(notebook):
    cells = [source(cell) for cell in code(notebook)]
    # Chapter 2 runs its study by this name; chapter 3 trains with the loop that it has written.
    own = "chapter_02.identities(", "def train("
    live = [cell for cell in cells if ("studies.get(" in cell and ".run(" in cell)]
    assert live or any(name in cell for name in own for cell in cells)


def test_exercises_have_solutions_that_ran(notebook):
    solutions = [cell for cell in code(notebook) if solution(cell)]
    assert len(solutions) >= 3
    for cell in solutions:
        assert cell["outputs"], "a solution shows what it found"
        # JupyterLab shows the first line of a cell that is closed.
        assert source(cell).startswith("# Solution\n"), source(cell)


def test_nothing_ties_a_notebook_to_a_machine_or_a_day(notebook):
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert [c["id"] for c in notebook["cells"]] == [
        f"cell-{i:02d}" for i in range(1, len(notebook["cells"]) + 1)
    ]
    for cell in code(notebook):
        outputs = json.dumps(cell["outputs"])
        assert not re.search(r"/(home|root|Users|work|tmp)/|0x[0-9a-f]{8}", outputs), source(cell)


def test_the_checklist_of_the_audit_names_every_rule():
    from bnutils.doctor.rules import RULES

    (path,) = [path for path in PATHS if path.stem == "12_audit"]
    cells = nbformat.read(path, as_version=4).cells
    (checklist,) = [cell.source for cell in cells if "## The checklist" in cell.source]
    checklist = checklist[checklist.index("## The checklist") :]
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", checklist)) == {rule.name for rule in RULES}
