"""The back matter: the cheat-sheet tells the truth, terms lead to the glossary, the template works.

The tests of pages read the built site, as test_site.py does.
"""

import importlib.util
import inspect
import json
import math
import re
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
CHAPTERS = sorted((HTML / "notebooks").glob("*.html"))
OTHERS = ["book/introduction", "book/claims", "book/cheatsheet", "book/how_this_book_is_made"]
PAGES = [*CHAPTERS, HTML / "book" / "index.html", *(HTML / f"{page}.html" for page in OTHERS)]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Where a term is left alone.
APART = (
    "a:not(.bn-term), code, cite, .math, .cell_output, figcaption, .toctree-wrapper, "
    ".bn-ledger-row, .bn-ledger-summary"
)


def load(path):
    """Import a file that is no module of a package."""
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def column(framework):
    """What the tables of conventions say of one framework, by row, without its bold."""
    text = (ROOT / "book" / "cheatsheet.md").read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text[text.index("## Conventions") :], re.MULTILINE):
        rows = [row.strip("|").split("|") for row in table.splitlines()]
        cells = [[cell.strip().strip("*") for cell in row] for row in rows]
        heads = [head.partition(",")[0] for head in cells[0]]
        if framework in heads:
            place = heads.index(framework)
            return {row[0]: row[place] for row in cells[2:]}
    raise ValueError(f"no table of {framework}")


@cache
def read(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def glossary():
    """The terms of each entry, by the anchor that links to the entry use."""
    entries, terms = {}, []
    for element in read(HTML / "book" / "glossary.html").select("dl.glossary > *"):
        if element.name == "dt":
            terms.append((element["id"], element.find(string=True, recursive=False).strip()))
        else:
            entries[terms[0][0]] = [term for _, term in terms]
            terms = []
    return entries


# ---- the cheat-sheet ----------------------------------------------------------------------------


def test_the_column_of_keras_is_that_of_the_installed_keras():
    from bnutils._keras import keras

    says = column("Keras 3")
    layer_class = getattr(keras.layers, says["layer"].strip("`"))
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(layer_class.__init__).parameters.items()
    }
    assert float(says["`momentum`"]) == defaults["momentum"]
    assert float(says["its default"]) == defaults[says["added to the variance"].strip("`")]
    assert says["features are on"] == f"`axis={defaults['axis']}`"
    for switch in ("`scale=False`", "`center=False`"):
        assert switch in says["left out by"]
        assert defaults[switch.strip("`").split("=")[0]] is True
    assert says["over several devices"] == "`synchronized=True`"
    assert defaults["synchronized"] is False

    layer = layer_class()
    x = np.array([[1.0], [2.0], [3.0], [4.0]], dtype="float32")
    silent = layer(x).numpy()
    np.testing.assert_allclose(silent, layer(x, training=False))
    assert says["if you say nothing"] == "inference"
    for row, start in [
        (r"scale $\gamma$, shift $\beta$", "they start at"),
        ("stored mean, variance", "these start at"),
    ]:
        names = says[row].replace("`", "").split(", ")
        assert [float(getattr(layer, name)[0]) for name in names] == [
            float(value) for value in says[start].split(", ")
        ]

    y = layer(x, training=True).numpy()
    np.testing.assert_allclose(y, (x - 2.5) / np.sqrt(x.var() + layer.epsilon), rtol=1e-5)
    assert says["variance that normalizes a batch"].startswith("biased")
    stored = layer.momentum * 1 + (1 - layer.momentum) * x.var()
    np.testing.assert_allclose(layer.moving_variance, [stored], rtol=1e-6)
    assert says["variance that is stored"] == "biased"
    assert says["`momentum` weighs the"] == "old value"


@pytest.mark.parametrize("framework", ["Keras 3", "PyTorch", "Flax", "ONNX"])
def test_updates_until_one_percent_is_left_follow_from_momentum(framework):
    says = column(framework)
    momentum = float(says["`momentum`"])
    old = momentum if says["`momentum` weighs the"] == "old value" else 1 - momentum
    updates = math.ceil(math.log(0.01) / math.log(old))
    assert says["updates until 1% of the start is left"] == str(updates)


def test_the_column_of_pytorch_is_that_of_the_converter():
    from bnutils.conventions import from_pytorch, to_pytorch

    says = column("PyTorch")
    ours = inspect.signature(from_pytorch).parameters
    assert float(says["`momentum`"]) == ours["momentum"].default
    assert float(says["its default"]) == ours["eps"].default
    assert says["added to the variance"] == "`eps`"
    made = to_pytorch(moving_mean=np.zeros(1), moving_variance=np.ones(1), count=4)
    for row in (r"scale $\gamma$, shift $\beta$", "stored mean, variance"):
        assert set(says[row].replace("`", "").split(", ")) <= set(made)
    assert made["running_var"] == pytest.approx(4 / 3)
    assert says["variance that is stored"].startswith("unbiased")


# ---- the glossary -------------------------------------------------------------------------------


def test_no_term_has_two_entries():
    terms = [term.lower() for entry in glossary().values() for term in entry]
    assert len(terms) == len(set(terms)) >= 60


def test_every_entry_is_used():
    used = {link["href"].split("#")[1] for page in PAGES for link in read(page).select("a.bn-term")}
    assert used == set(glossary())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_term_of_a_page_is_linked_once_at_its_first_use(page):
    """Walk the paragraphs as a reader does, term by term, without the extension's pattern."""
    entry_of = {term.lower(): anchor for anchor, terms in glossary().items() for term in terms}
    longest = max(len(term.split()) for term in entry_of)
    first, seen = {}, set()
    for text in read(page).select_one("article").find_all(string=True):
        inside = list(text.parents)
        if "p" not in [e.name for e in inside] or any(e.css.match(APART) for e in inside[:-1]):
            continue
        linked = "bn-term" in text.parent.get("class", [])
        words = re.findall(r"[^\W_]+(?:[-_%]\w+)*%?", text.lower())
        breaks = re.split(r"[^\W_]+(?:[-_%]\w+)*%?", text.lower())[1:]
        start = 0
        while start < len(words):
            for length in range(longest, 0, -1):
                chunk = words[start : start + length]
                if any(gap.strip() for gap in breaks[start : start + length - 1]):
                    continue
                phrase = " ".join(chunk)
                forms = [phrase, phrase.removesuffix("s"), phrase.removesuffix("es")]
                anchor = next((entry_of[form] for form in forms if form in entry_of), None)
                if anchor:
                    first.setdefault(anchor, linked)
                    if linked:
                        assert anchor not in seen, f"{phrase!r} is linked twice"
                        target, found = text.parent["href"].split("#")
                        assert (page.parent / target).resolve() == HTML / "book" / "glossary.html"
                        assert found == anchor
                        seen.add(anchor)
                    start += length - 1
                    break
            start += 1
    assert seen
    assert [anchor for anchor, linked in first.items() if not linked] == []


def test_no_heading_code_caption_or_output_is_linked():
    for page in PAGES:
        assert not read(page).select(
            "h1 .bn-term, h2 .bn-term, h3 .bn-term, pre .bn-term, code .bn-term, .math .bn-term, "
            "figcaption .bn-term, .cell_output .bn-term"
        )


def test_terms_are_found_as_whole_words_longest_first():
    links = load(ROOT / "book" / "_ext" / "glossary_links.py")
    found = links.term_pattern(["learning rate", "effective learning rate", "bias"]).findall(
        "A biased Learning\nrate. The effective learning rates; bias-free, biases, unbias."
    )
    assert found == ["Learning\nrate", "effective learning rate", "bias"]


# ---- how this book is made ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (tuple(range(20)), "0 to 19"),
        ((0, 1, 2), "0, 1, 2"),
        ((0.02, 0.05, 0.1, 0.2, 0.5, 1.0), "0.02, 0.05, 0.1, 0.2, 0.5, 1.0"),
        (("no BN", "BN"), "no BN, BN"),
    ],
)
def test_a_grid_is_told_in_full_and_a_run_of_seeds_by_its_ends(values, text):
    assert load(ROOT / "book" / "_ext" / "made.py")._shown(values) == text


def test_every_chapter_has_a_run_time_and_the_page_shows_it():
    times = json.loads((ROOT / "book" / "run_times.json").read_text(encoding="utf-8"))
    assert list(times) == [path.stem for path in NOTEBOOKS]
    assert sum(times.values()) <= 150
    page = read(HTML / "book" / "how_this_book_is_made.html")
    table = page.select_one("#what-it-costs-to-run table")
    shown = [row.find_all("td")[-1].text for row in table.select("tbody tr")]
    assert shown == [str(seconds) for seconds in times.values()] + [str(sum(times.values()))]


def test_the_page_shows_the_locked_versions():
    made = load(ROOT / "book" / "_ext" / "made.py")
    pins = made.locked((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    text = read(HTML / "book" / "how_this_book_is_made.html").find("article").get_text()
    for name in ("numpy", "keras", "tensorflow", "jupyter-book", "nbval"):
        assert f"{name} {pins[name]}" in text


@pytest.mark.parametrize(
    ("known", "new", "kept"),
    [
        ({}, {"a": 1.2}, {"a": 1}),
        ({"a": 40}, {"a": 49.0}, {"a": 40}),
        ({"a": 40}, {"a": 51.0}, {"a": 51}),
        ({"a": 4}, {"a": 5.9}, {"a": 4}),
        ({"gone": 4, "a": 3}, {}, {"a": 3}),
        ({"a": 3}, {"elsewhere": 9.0}, {"a": 3}),
    ],
)
def test_run_times_are_written_only_when_they_changed(known, new, kept, tmp_path):
    file = tmp_path / "book" / "run_times.json"
    for folder in (file.parent, tmp_path / "notebooks"):
        folder.mkdir()
    (tmp_path / "notebooks" / "a.ipynb").touch()
    file.write_text(json.dumps(known), encoding="utf-8")
    load(ROOT / "tools" / "notebooks.py").record_times(new, file)
    assert json.loads(file.read_text(encoding="utf-8")) == kept


# ---- the template -------------------------------------------------------------------------------


def test_the_template_has_the_form_of_a_chapter(tmp_path):
    path = tmp_path / "14_template.ipynb"
    shutil.copy(ROOT / "tools" / "chapter_template.ipynb", path)
    load(ROOT / "tools" / "notebooks.py").execute(path)
    chapter = json.loads(path.read_text(encoding="utf-8"))
    form = load(ROOT / "tests" / "test_notebooks.py")
    checks = [
        check
        for name, check in vars(form).items()
        if name.startswith("test_") and list(inspect.signature(check).parameters) == ["notebook"]
    ]
    assert len(checks) >= 8
    for check in checks:
        check(chapter)
    for cell in filter(form.solution, form.code(chapter)):
        assert form.data(cell, "text/plain") == [["Right."]], form.source(cell)


MEASURED = sorted((ROOT / "book" / "measured").glob("*.json"))


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_what_a_command_measured_is_shown_whole(path):
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert {len(row) for row in kept["rows"]} == {len(kept["head"])}
    shown = re.compile(rf"^```\{{measured\}} {path.stem}$", re.MULTILINE)
    pages = [
        page
        for page in (ROOT / "book").glob("*.md")
        if shown.search(page.read_text(encoding="utf-8"))
    ]
    assert len(pages) == 1
    bodies = read(HTML / "book" / f"{pages[0].stem}.html").select("article table tbody")
    assert len(kept["rows"]) in [len(body.find_all("tr")) for body in bodies]
    assert not any(re.search(r"\de-\d", body.text) for body in bodies)  # would part at the hyphen
    assert kept["note"]
