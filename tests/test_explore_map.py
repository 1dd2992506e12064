"""The map to touch, and the records behind it and the race: what is shown is what was measured."""

import re

import numpy as np
import pytest
from browser import NO_BROWSER
from explore import extension, stories

from bnutils import studies
from bnutils.studies import explore

records = extension("explore_records")
explorables = extension("explorables")
AXES = ("activation", "depth", "arm", "scale", "rate")


@pytest.fixture(scope="module")
def land():
    """What the land of circles measured."""
    return studies.load("land-of-circles")["accuracy"]


def percents(accuracy):
    return np.rint(100 * accuracy.median("seed")).astype(int)


def counted(accuracy, **settings):
    """How many settings reach 95 percent, without BN, with it, and without only."""
    shown = percents(accuracy).sel(**settings) >= 95
    plain, with_bn = (shown.sel(arm=arm).values for arm in explore.ARMS)
    return {
        "without": plain.sum(),
        "with": with_bn.sum(),
        "lost": (plain & ~with_bn).sum(),
        "of": plain.size,
    }


# ------------------------------------------------------------------- what was said, and the records


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_the_maps_show_what_was_said_before(land, activation):
    median = land.sel(depth=4, activation=activation).median("seed")
    without, with_bn = (median.sel(arm=arm) for arm in explore.ARMS)
    trains = [int((each >= explore.TRAINS).sum()) for each in (without, with_bn)]
    assert trains[1] >= explore.SHOWN["land"] * trains[0]
    assert abs(float(with_bn.max() - without.max())) <= explore.SHOWN["peak"]
    if activation != "sigmoid":
        usual = int((without.sel(scale=1) >= explore.TRAINS).sum())
        assert usual >= explore.SHOWN["usual"]


@pytest.mark.parametrize("story", explore.STORIES)
def test_each_story_shows_what_was_said_before(story):
    ends = studies.load("race-stories")["accuracy"].sel(story=story).isel(look=-1)
    for expected in explore.STORIES[story]:
        assert expected.holds(ends), expected


def test_the_figure_reads_the_map_as_recorded(js, land):
    body = """
      const all = [];
      for (const activation of land.activations)
        for (const depth of land.depths)
          for (const arm of ["without", "with"])
            for (const scale of land.scales)
              for (const rate of land.rates) all.push(landCell({ activation, depth, scale, rate }, arm));
      return { land: { ...land, cells: null }, all };"""  # noqa: E501
    got = js(["map.js"], body)
    assert got["land"]["activations"] == land["activation"].values.tolist()
    assert got["land"]["rates"] == land["rate"].values.tolist()
    assert got["land"]["scales"] == land["scale"].values.tolist()
    values = land.transpose(*AXES, "seed").values
    for name, of in (("median", np.median), ("low", np.min), ("high", np.max)):
        shown = np.array([cell[name] for cell in got["all"]])
        np.testing.assert_array_equal(shown, np.rint(100 * of(values, axis=-1)).ravel())


def test_the_bands_of_the_race_are_as_recorded(js):
    bands = js(["race_records.js"], "return raceBands")
    record = studies.load("race-stories")["accuracy"]
    races = studies.get("race-stories").fixed["races"]
    assert set(bands) == set(explore.STORIES)
    for story, band in bands.items():
        assert band["steps"] == races[story]["steps"]
        for name, (arm, reading) in records.READINGS.items():
            values = 100 * record.sel(story=story, arm=arm, reading=reading)
            for part, of in (("low", values.min), ("high", values.max)):
                shown = [ord(character) - 26 for character in band[name][part]]
                np.testing.assert_array_equal(shown, np.rint(of("seed").values))
            assert band[name]["median"] == np.rint(values.isel(look=-1).median("seed"))


# ------------------------------------------------------------------------------------ the sentences


def test_what_the_map_says_is_as_recorded(js, land):
    told = stories(js, "map")
    for state in told.values():
        settings = {name: state[name] for name in ("activation", "depth")}
        counts = counted(land, **settings)
        assert state["counts"] == counts
        lead = re.search(r": (\d+) of 49 settings train without BN, (\d+) with", state["sentence"])
        assert [int(number) for number in lead.groups()] == [counts["without"], counts["with"]]
        best = percents(land).sel(**settings).max(("scale", "rate")).values.tolist()
        assert f"the best reach {best[0]}% and {best[1]}%" in state["sentence"]
        cell = percents(land).sel(**settings, scale=state["scale"], rate=state["rate"])
        plain, with_bn = cell.values.tolist()
        assert state["sentence"].endswith(f": {plain}% without BN, {with_bn}% with it.")

    def trains(story, arm, **where):
        state = told[story]
        maps = percents(land).sel(activation=state["activation"], depth=state["depth"], arm=arm)
        return (maps.sel(**where) >= 95).values

    for arm in explore.ARMS:
        assert trains("usual", arm, scale=1, rate=[0.1, 0.3, 1]).all()
        assert not trains("rate-10", arm, rate=10).any()
    assert not trains("small", "without", scale=0.03).any()
    assert trains("small", "with", scale=0.03).tolist() == [True] * 6 + [False]
    at_ten = percents(land).sel(activation="relu", rate=10)
    assert not (at_ten >= 95).any()
    assert not trains("six", "without").any()
    six, lost = told["six"]["counts"], told["lost"]["counts"]
    assert f"With BN {six['with']} do" in told["six"]["says"]
    two = counted(land, activation="relu", depth=2)
    deep = counted(land, activation="relu", depth=6)
    assert told["deeper"]["says"] == (
        f"From two layers of ReLU to six: without BN {deep['without']} settings instead of "
        f"{two['without']}, with BN {deep['with']} instead of {two['with']}."
    )
    cell, says = told["lost"]["cell"], told["lost"]["says"]
    assert f"At {lost['lost']} settings" in says
    assert lost["lost"] >= 1
    for arm, words in (("without", "without"), ("with", "with BN")):
        median, low, high = (cell[arm][part] for part in ("median", "low", "high"))
        assert f"{median}% ({low} to {high}%) {words}" in says
    line = int(re.search(r"line at (\d+)%", says)[1])
    maps = percents(land).sel(activation="sigmoid", depth=2)
    for threshold, left in ((line, False), (line + 1, True)):
        above = maps >= threshold
        assert (above.sel(arm="without") & ~above.sel(arm="with")).any() == left


def test_the_bet_has_the_right_answer(js, land):
    says = "settingsMap.bet.says({ counts: { with: 1, without: 2 } })"
    bet = js(["map.js"], f"return {{ ...settingsMap.bet, says: {says} }}")
    (right,) = bet["right"]
    two, six = (counted(land, activation="relu", depth=depth) for depth in (2, 6))
    assert bet["choices"][right] == f"About {six['with']}"
    assert f"train at {two['with']} of the 49" in bet["question"]
    assert f"left of {two['without']}." in bet["says"]
    assert len(set(bet["choices"])) == len(bet["choices"])


# --------------------------------------------------------------------------------------- on a page


@pytest.fixture
def page(browser, tmp_path):
    """The map and below it the race, on a page of their own."""
    context = browser.new_context(
        viewport={"width": 720, "height": 900}, reduced_motion="reduce", has_touch=False
    )
    page = context.new_page()
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    styles = (explorables.SOURCES.parent / "_static" / "explore.css").read_text(encoding="utf-8")
    figures = "".join(
        f"<figure class='bn-explorable' id='{name}'><div class='bn-frame'><div class='bn-still'>"
        f"{still}</div><div class='bn-live' hidden></div></div></figure>"
        for name, still in (("map", explorables.FIGURES["map"][2]()), ("race", ""))
    )
    file = tmp_path / "map.html"
    file.write_text(
        "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<style>{styles}</style><body>{figures}"
        f"<script>{explorables.bundle(['map', 'race'])}</script>",
        encoding="utf-8",
    )
    page.goto(file.as_uri())
    page.wait_for_selector("#map[data-ready]")
    yield page
    assert not page.troubles
    context.close()


def button(arm, scale, rate):
    return f'[data-map="{arm}"] button[data-scale="{scale}"][data-rate="{rate}"]'


@NO_BROWSER
def test_the_tables_show_the_record_live_and_still(page, land):
    texts = """(selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent)"""
    shown = percents(land).sel(activation="tanh", depth=4)
    live = []
    for arm in explore.ARMS:
        expected = shown.sel(arm=arm).values[::-1].ravel().astype(str).tolist()
        live.append(expected)
        assert page.evaluate(texts, f'[data-map="{arm}"] button') == expected
    assert page.evaluate(texts, ".bn-still td > span") == live[0] + live[1]
    dark = "() => [...document.querySelectorAll('.bn-still [data-trains]')].length"
    counts = counted(land, activation="tanh", depth=4)
    assert page.evaluate(dark) == counts["without"] + counts["with"]
    captions = page.evaluate(texts, "caption")
    assert captions[:2] == captions[2:4]  # still and live
    page.evaluate("document.getElementById('map').set({ activation: 'relu', depth: 2 })")
    expected = percents(land).sel(activation="relu", depth=2, arm="with").values[::-1]
    found = page.evaluate(texts, '[data-map="with"] button')
    assert found == expected.ravel().astype(str).tolist()
    page.evaluate("document.getElementById('map').set({ threshold: 85 })")
    state = page.evaluate("document.getElementById('map').state")
    for arm in explore.ARMS:
        above = percents(land).sel(activation="relu", depth=2, arm=arm) >= 85
        assert state["counts"][arm] == above.sum()
        assert page.locator(f'[data-map="{arm}"] [data-trains]').count() == above.sum()


@NO_BROWSER
def test_a_cell_runs_live_and_its_outcome_stands_beside_the_record(page, land):
    cell = button("without", 3, 0.1)
    live = "document.getElementById('map').state.live"
    fixed = studies.get("land-of-circles").fixed
    for seed in (1, 2):  # pressed again, it is another run
        page.click(cell)
        page.wait_for_function(f"{live}?.ended && {live}.seed === {seed}")
        link = page.get_attribute(".bn-land-readout a", "href")
        wanted = {"activation": "tanh", "depth": 4, "rate": 0.1, "scale": 3, "seed": seed}
        query = "&".join(f"race.{key}={value}" for key, value in (fixed | wanted).items())
        assert sorted(link[1:].removesuffix("#race").split("&")) == sorted(query.split("&"))
        recorded = land.sel(activation="tanh", depth=4, rate=0.1, scale=3, seed=seed)
        for arm in explore.ARMS:
            shown = int(page.inner_text(f'[data-key="live.{arm}"]'))
            assert abs(shown - 100 * float(recorded.sel(arm=arm))) <= 3
    state = page.evaluate("document.getElementById('map').state")
    said = f"Live, run 2: {state['live']['without']}% and {state['live']['with']}%."
    assert page.inner_text("#map output").endswith(said)
    page.click(".bn-land-readout a")
    ends = """
      const race = document.getElementById("race");
      race.advance(500);
      const { step, ended, accuracy } = race.state;
      return [step, ended, Math.round(100 * accuracy.without), Math.round(100 * accuracy.use)];"""
    ran = page.evaluate(f"(() => {{ {ends} }})()")
    assert ran == [500, True, state["live"]["without"], state["live"]["with"]]
    page.evaluate("document.getElementById('map').set({ rate: 1 })")
    assert page.evaluate(live) is None


@NO_BROWSER
def test_the_map_is_a_grid_for_the_keyboard(page):
    start = page.locator(button("without", 1, 0.3))
    assert page.locator('[data-map="without"] button[tabindex="0"]').count() == 1
    start.focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    focused = page.evaluate("({ ...document.activeElement.dataset })")
    assert (focused["scale"], focused["rate"], focused["cell"]) == ("3", "3", "without")
    for arm in explore.ARMS:  # its twin is marked, too
        assert page.get_attribute(button(arm, 3, 3), "aria-pressed") == "true"
    assert page.locator('button[aria-pressed="true"][data-cell="with"]').count() == 1
    assert page.evaluate("document.getElementById('map').state.live") is None
    page.keyboard.press("Enter")
    assert page.evaluate("document.getElementById('map').state.live.seed") == 1
    page.keyboard.press("Tab")  # out of this map, into the other
    assert page.evaluate("document.activeElement.dataset.cell") == "with"


@NO_BROWSER
def test_pressing_a_cell_moves_nothing_above_it(page):
    for width in (720, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("document.getElementById('map').set({ preset: 'usual' })")
        cell = page.locator(button("with", 30, 10))
        before = cell.bounding_box()
        cell.click()
        assert cell.bounding_box() == before
        state = page.evaluate("document.getElementById('map').state")
        assert (state["rate"], state["preset"]) == (10, None)  # as after any other setting
        assert page.locator(".bn-land-readout").bounding_box()["y"] < before["y"]


@NO_BROWSER
def test_pointing_at_a_cell_marks_its_twin_and_changes_nothing(page, land):
    before = page.evaluate("document.getElementById('map').state")
    page.hover(button("with", 30, 0.1))
    assert page.locator("[data-pointed]:visible").count() == 2
    heads = page.locator(".bn-land-readout th").all_inner_texts()
    assert heads[0] == "rate 0.1, scale 30"
    cell = percents(land).sel(activation="tanh", depth=4, scale=30, rate=0.1)
    assert page.locator(".bn-land-readout td").all_inner_texts()[0] == f"{int(cell[0])}%"
    page.mouse.move(2, 2)
    assert page.locator("[data-pointed]").count() == 0
    assert page.evaluate("document.getElementById('map').state") == before


@NO_BROWSER
def test_on_a_phone_one_map_is_shown_at_a_time(page, land):
    page.set_viewport_size({"width": 320, "height": 700})
    visible = page.locator(".bn-live .bn-land:visible")
    assert visible.count() == 1
    page.check("input[value=difference]", force=True)
    assert page.evaluate("document.getElementById('map').state.view") == "difference"
    maps = percents(land).sel(activation="tanh", depth=4)
    gain = (maps.sel(arm="with") - maps.sel(arm="without")).values[::-1].ravel()
    texts = [f"{'+' if each > 0 else ''}{each}".replace("-", "−") for each in gain]
    assert visible.locator("button").all_inner_texts() == texts
    sizes = page.evaluate(
        """() => [...document.querySelectorAll(".bn-live .bn-land[data-shown] button")].map((e) => {
          const box = e.getBoundingClientRect();
          return Math.min(box.width, box.height);
        })"""
    )
    assert min(sizes) >= 24
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize(
    ("activation", "rate", "scale"), [("tanh", 0.3, 1), ("relu", 0.1, 0.03), ("sigmoid", 0.1, 10)]
)
def test_a_live_run_ends_within_what_was_recorded(js, land, activation, rate, scale):
    """The race of a cell in JavaScript. Paths part in the last digit, so not to the last point."""
    body = """
      return [1, 2, 3].map((seed) => {
        const settings = { ...raceOf({ activation, rate, scale, depth: 4 }), seed };
        const run = startRace(settings);
        while (run.step < settings.steps) stepRace(run, settings);
        const { without, use } = look(run).accuracy;
        return [without, use];
      });"""
    cell = {"activation": activation, "rate": rate, "scale": scale}
    live = np.array(js(["map.js", "race_run.js"], body, **cell))
    recorded = land.sel(**cell, depth=4, arm=explore.ARMS).transpose("seed", "arm")
    assert (live >= recorded.min("seed").values - 0.05).all()
    assert (live <= recorded.max("seed").values + 0.05).all()
    if activation != "sigmoid":  # at an end of training, where paths meet again
        np.testing.assert_allclose(live, recorded.sel(seed=[1, 2, 3]).values, atol=0.03)
