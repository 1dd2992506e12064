"""The book's search: what it looks through, what comes first, and how it is used."""

import gzip
import json
import re

import pytest
from browser import AXE, HTML, NO_BROWSER
from docutils import nodes
from explore import ROOT, evaluated, extension

ENTRIES = HTML / "_static" / "search-entries.js"
SCRIPT = HTML / "_static" / "search.js"
built = pytest.mark.skipif(not ENTRIES.exists(), reason="run `make book` first")

#: What readers type, and the first result: the beginning of its address.
FIRST = {
    "why batch": "book/introduction.html#why-batch",
    "freeze": "notebooks/09_",
    "small batch": "notebooks/07_",
    "moving variance": "book/glossary.html#term-moving-statistics",
    "should I use it": "book/introduction.html#should-i-use-it",
    "recalibrate": "notebooks/06_training_and_inference.html#repair-recalibrate",
    "dropout": "notebooks/08_",
    "NaN": "notebooks/12_audit.html#the-checklist",
    "momentum": "notebooks/06_",
    "validation worse than training": "notebooks/06_",
    "layer norm": "notebooks/07_",
    "PyTorch eval": "book/cheatsheet.html#conventions",
    "gamma beta": "notebooks/02_the_math.html#gamma-and-beta-can-undo-it",
    "before or after activation": "notebooks/04_keras.html#before-or-after-the-activation",
    "fold": "notebooks/10_",
    "ONNX": "notebooks/10_",
    "batch size 1": "notebooks/07_batch_size.html",
    "fuse conv inference": "notebooks/10_",
    "chapter 7": "notebooks/07_batch_size.html",
    "weight decay": "notebooks/08_",
    "internal covariate shift": "notebooks/13_",
    "batch_norm_grad": "book/api/norm.html#bnutils.norm.batch_norm_grad",
    "recalibarte": "notebooks/06_",  # a slip
    "dropuot": "notebooks/08_",
}
#: The same further down: among the first three.
AMONG = {
    "why batch": "notebooks/02_",
    "use_bias": "notebooks/04_keras.html#the-bias-can-go",
    "freeze": "notebooks/09_fine_tuning.html#how-to-freeze-it",
    "layer norm": "book/glossary.html#term-layer-normalization",
    "momentum": "book/glossary.html#term-momentum",
    "moving variance": "notebooks/",
}


def run(script):
    """The value of a function's body, by node or else by a browser."""
    rank = (ROOT / "book" / "_search" / "rank.js").read_text(encoding="utf-8")
    rank = re.sub(r"^export ", "", rank, flags=re.MULTILINE)
    return evaluated(f"(() => {{ {rank}\n{script} }})()")


def entries():
    search = extension("search")
    text = ENTRIES.read_text(encoding="utf-8")
    return json.loads(text.removeprefix(search.BEFORE).removesuffix(search.AFTER))


@pytest.fixture(scope="module")
def found():
    """The addresses that are found for each question, best first."""
    if not ENTRIES.exists():
        pytest.skip("run `make book` first")
    questions = json.dumps(sorted({*FIRST, *AMONG}))
    return run(
        f"""const index = indexOf({json.dumps(entries())});
        return Object.fromEntries({questions}.map((question) =>
          [question, search(index, question).results.map(({{ entry }}) => entry.url)]));"""
    )


@pytest.mark.parametrize("question", FIRST)
def test_the_right_place_comes_first(found, question):
    assert found[question][0].startswith(FIRST[question]), found[question][:4]


@pytest.mark.parametrize("question", AMONG)
def test_the_right_place_is_among_the_first(found, question):
    first = found[question][:3]
    assert any(url.startswith(AMONG[question]) for url in first), first


def test_words_and_their_other_forms():
    words = run(
        """return [wordsOf("β of a mini-batch's use_bias=False, naïve"),
        ["freeze", "freezing", "freezes", "batches", "normalization", "normalize", "use_bias", "is"]
          .map(stemOf),
        [isNear("dropuot", "dropout", 1), isNear("dropot", "dropout", 1),
         isNear("fold", "freeze", 1)]];"""
    )
    assert words[0] == ["beta", "of", "a", "mini", "batchs", "use_bias", "false", "naive"]
    assert words[1] == ["freez"] * 3 + ["batch", "normaliz", "normaliz", "use_bias", "is"]
    assert words[2] == [True, True, False]


def test_a_result_shows_the_words_in_their_sentence():
    text = "First comes something else. " * 9 + "Then it is the batch, and I wait. " + "More. " * 40
    pieces = run(f"return snippet({json.dumps(text)}, new Set(['it', 'batch']), 60);")
    assert [text for text, is_found in pieces if is_found] == ["it", "batch"]  # and no stray letter
    numbers = run("return snippet('Of 1,500 or 10.5 or 21, it is 1.', new Set(['1']));")
    assert [text for text, is_found in numbers if is_found] == ["1"]
    shown = "".join(text for text, _ in pieces)
    assert shown.startswith("… Then it is the batch")
    assert len(shown) <= 64


def test_what_a_page_says_is_read_without_code_and_outputs():
    search = extension("search")
    section = nodes.section("", nodes.title("", "Title"), ids=["here"])
    section += nodes.paragraph("", "", nodes.Text("Its "), nodes.math("", r"\hat{x}, \gamma"))
    section += nodes.literal_block("", "code()")
    section += nodes.container("", nodes.paragraph("", "An output."), classes=["cell_output"])
    inner = nodes.section("", nodes.title("", "Inner"), ids=["what-you-ll-learn"])
    inner += nodes.paragraph("", "Its own.")
    section += inner
    found = list(search.sections(section))
    assert found[0] == ("", "Title", "Its x̂, γ", "section")
    assert found[1] == ("what-you-ll-learn", "Inner", "Its own.", "aside")


@built
def test_all_kinds_are_looked_through_and_lead_somewhere():
    pages = entries()
    kinds = {kind for page in pages.values() for *_, kind in page["entries"]}
    assert kinds == {"section", "aside", "term", "claim", "name"}
    for page in pages.values():
        html = (HTML / page["url"]).read_text(encoding="utf-8")
        for anchor, title, *_ in page["entries"]:
            assert not anchor or f'id="{anchor}"' in html, (page["url"], title)


@built
def test_search_is_light_and_fetched_only_when_asked_for():
    assert len(gzip.compress(SCRIPT.read_bytes())) < 8_000
    assert len(gzip.compress(ENTRIES.read_bytes())) < 130_000
    html = (HTML / "book" / "introduction.html").read_text(encoding="utf-8")
    assert not re.search(r'src="[^"]*(search|highlight)[^"]*\.js', html)


@built
@NO_BROWSER
def test_typing_into_the_dialog_finds_the_right_place(visit):
    page = visit((HTML / "notebooks" / "01_motivation.html").as_uri())
    assert not [url for url in page.asked if "search" in url and url.endswith(".js")]
    page.keyboard.press("Control+k")
    field = page.locator("#pst-search-dialog input")
    first = page.locator("#pst-search-dialog .bn-search-results a").first
    for question in list(FIRST)[:5]:
        field.fill(question)
        page.wait_for_function(
            """(start) => document.querySelector("#pst-search-dialog .bn-search-results a")
              ?.href.includes(start)""",
            arg=FIRST[question],
            timeout=10_000,
        )
        assert first.is_visible()
    said = page.locator("#pst-search-dialog [role=status]")
    assert re.fullmatch(r"\d+ results.*", said.text_content())
    field.fill("xyzzy")
    assert said.text_content() == "Nothing found for “xyzzy”."
    field.fill("moving variance")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert first.evaluate("(link) => link === document.activeElement")
    page.keyboard.press("Enter")
    page.wait_for_url("**/glossary.html#term-moving-statistics")
    assert page.locator(".highlighted, article mark").count() == 0
    assert not page.troubles


@built
@NO_BROWSER
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_of_results_answers_and_is_accessible(visit, theme):
    page = visit("search.html?q=small+batch", theme, width=390)
    first = page.locator(".bn-search-page .bn-search-results a").first
    first.wait_for(timeout=10_000)
    assert "/notebooks/07_" in first.evaluate("(link) => link.href")
    assert first.evaluate("(link) => getComputedStyle(link).display") == "block"  # search.css
    page.evaluate(AXE)
    found = page.evaluate("axe.run('.bn-search-page')")["violations"]
    assert not found, [(one["id"], one["nodes"][0]["html"]) for one in found]
    page.set_viewport_size({"width": 320, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert not page.troubles


@built
@NO_BROWSER
def test_without_javascript_the_page_says_so(visit):
    page = visit("search.html", java_script_enabled=False)
    assert "needs JavaScript" in page.locator(".bn-search-page").inner_text()
    assert not page.locator(".bn-search-page input").is_visible()
