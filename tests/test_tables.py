"""Tables of numbers, and what stays on one line."""

import importlib
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
CHAPTERS = sorted((HTML / "notebooks").glob("*.html"))
FRAME = (
    '<table border="1" class="dataframe"><thead>'
    "<tr><th>rate</th><th>0.5</th><th>1</th><th>why</th></tr>"
    "<tr><th>scale</th><th></th><th></th><th></th></tr></thead><tbody>"
    "<tr><th>10</th><td>-4.2</td><td>3</td><td>too large</td></tr></tbody></table>"
)


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module


def texts(row):
    return [cell.get_text() for cell in row.find_all(["th", "td"])]


def test_names_of_rows_stand_over_them(extension):
    tables = extension("tables")
    table = BeautifulSoup(tables.flatten(FRAME), "html.parser")
    over, head = table.thead.find_all("tr")
    assert texts(over) == ["", "rate"]
    assert texts(head) == ["scale", "0.5", "1", "why"]
    words = [cell.get_text() for cell in table.select(".bn-words")]
    assert words == ["scale", "why", "too large"]
    once = FRAME.replace("<th>rate</th>", "<th></th>")
    (head,) = BeautifulSoup(tables.flatten(once), "html.parser").thead.find_all("tr")
    assert texts(head) == ["scale", "0.5", "1", "why"]


def test_numbers_in_cells_have_a_minus(extension):
    minus = extension("tables").true_minus
    assert minus("<td>-0.1 [-0.2, 0.1]</td>") == "<td>−0.1 [−0.2, 0.1]</td>"
    assert minus("<td>1e-05</td><th>-1</th>") == "<td>1e−05</td><th>−1</th>"
    for other in ("<td>mini-batch</td>", "<td><code>-1</code></td>", "<p>-1</p>"):
        assert minus(other) == other


def test_words_stay_with_their_numbers(extension):
    joined = extension("unbroken").joined
    assert joined("chapter 7 and Figure 1.2") == "chapter\xa07 and Figure\xa01.2"
    assert joined("after 459 steps of 32 examples") == "after 459\xa0steps of 32\xa0examples"
    assert joined("a chapter of 7 pages") == "a chapter of 7 pages"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_head_ends_in_the_names_of_rows_alone(path):
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    for table in page.select("table.dataframe"):
        last = texts(table.thead.find_all("tr")[-1])
        assert last[-1]
        assert not [c for c in table.select("td, th") if c.get_text().startswith("-")]
