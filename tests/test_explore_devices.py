"""What is the batch? The sums of sixteen examples are NumPy's, and the stories are true."""

import re

import numpy as np
import pytest
from browser import NO_BROWSER
from explore import ROOT, extension, stories

from bnutils import norm
from bnutils.studies.points import Random

CIRCLES, SQUARES = slice(0, 8), slice(8, 16)


def groups_of(devices: int, order: str, seed: int = 1) -> np.ndarray:
    """For each device the numbers of its examples."""
    numbers = np.arange(16)
    if order == "dealt":
        return numbers.reshape(-1, devices).T
    if order == "shuffled":
        Random(seed, 8).shuffle(numbers)
    return numbers.reshape(devices, -1)


def normalized(x, groups, statistics, epsilon=1e-3) -> np.ndarray:
    """What `bnutils.norm` makes of `x`, in the order of `x`."""
    result = np.empty(16)
    parts = groups if statistics == "local" else groups.reshape(1, -1)
    for part in parts:
        result[part] = norm.batch_norm(x[part][:, None], None, None, epsilon=epsilon)[0][:, 0]
    return result


@pytest.fixture(scope="module")
def told(js):
    return stories(js, "devices")


def test_outputs_and_statistics_are_those_of_numpy(js):
    """Each setting on batches of halves, of any numbers, and of numbers that are all the same."""
    rng = np.random.default_rng(3)
    batches = [rng.integers(0, 41, 16) / 2, 10 + 4 * rng.normal(size=16), np.full(16, 7.0)]
    cases = [
        {
            "devices": devices,
            "order": order,
            "statistics": statistics,
            "seed": 5,
            "epsilon": epsilon,
            "x": x.tolist(),
            "focus": 9,
        }
        for devices in (1, 2, 4, 8)
        for order in ("dealt", "shuffled", "sorted")
        for statistics in ("local", "synchronized")
        for epsilon in (1e-5, 1e-3, 1)
        for x in batches
    ]
    got = js(["devices.js"], "return cases.map((one) => devices.derive(one))", cases=cases)
    for case, state in zip(cases, got, strict=True):
        x, devices = np.array(case["x"]), case["devices"]
        groups = groups_of(devices, case["order"], case["seed"])
        assert state["groups"] == groups.tolist()
        expected = normalized(x, groups, case["statistics"], case["epsilon"])
        np.testing.assert_allclose(state["xHat"], expected, rtol=1e-9, atol=1e-9)
        local = [(x[part].mean(), x[part].var()) for part in groups]
        means, variances = np.array(local).T
        np.testing.assert_allclose(
            [[one["mean"], one["variance"]] for one in state["local"]], local, atol=1e-12
        )
        # Of halves, mean of variances and variance of means add up to the variance in every bit.
        total = state["meanOfVariances"] + state["varianceOfMeans"]
        exact = (2 * x == np.round(2 * x)).all()
        assert total == state["variance"] if exact else abs(total - x.var()) < 1e-12
        np.testing.assert_allclose(
            [state["meanOfVariances"], state["varianceOfMeans"], state["variance"]],
            [variances.mean(), means.var(), x.var()],
            atol=1e-12,
        )
        whole = normalized(x, groups, "synchronized", case["epsilon"])
        np.testing.assert_allclose(state["farthest"], np.abs(expected - whole).max(), atol=1e-9)
        np.testing.assert_allclose(
            [state["apart"], state["apartWhole"]],
            [y[SQUARES].mean() - y[CIRCLES].mean() for y in (expected, whole)],
            atol=1e-9,
        )
        assert 9 in groups[state["device"]]
        synchronized = case["statistics"] == "synchronized"
        assert state["together"] == (16 if synchronized else 16 // devices)
        assert state["sent"] == (2 * devices if synchronized and devices > 1 else 0)


def test_moving_one_moves_those_that_share_its_statistics(js):
    body = """
      const places = Array.from({ length: 16 }, (_, i) => i);
      return all.map(([n, order, statistics]) => {
        const settings = { ...startOf(devices.settings), devices: n, order, statistics };
        return places.map((focus) => {
          const x = settings.x.map((value, i) => (i === focus ? 20 : value));
          return devices.derive({ ...settings, x, focus });
        });
      });"""
    settings = [
        (n, order, statistics)
        for n in (1, 2, 4, 8)
        for order in ("dealt", "sorted")
        for statistics in ("local", "synchronized")
    ]
    for (n, order, statistics), states in zip(
        settings, js(["settings.js", "devices.js"], body, all=settings), strict=True
    ):
        for focus, state in enumerate(states):
            changed = np.abs(np.subtract(state["xHat"], state["before"])) > 1e-9
            assert state["moved"] == changed.sum()
            if statistics == "local":
                (own,) = [part for part in groups_of(n, order) if focus in part]
                assert set(np.flatnonzero(changed)) <= set(own.tolist())
            if n < 8 or statistics == "synchronized":  # of two, both may stay at -1 and 1
                assert state["moved"] >= state["together"] - 1


def test_each_story_is_true(told):
    start = np.array(told["dealt"]["x"], float)
    whole = normalized(start, groups_of(1, "sorted"), "synchronized")
    for story in told.values():
        groups = groups_of(story["devices"], story["order"], story["seed"])
        y = normalized(np.array(story["x"], float), groups, story["statistics"], story["epsilon"])
        np.testing.assert_allclose(story["xHat"], y, atol=1e-9)
    y = {name: np.array(story["xHat"]) for name, story in told.items()}

    # Dealt to two: four of each, and nothing far from the whole batch.
    groups = np.array(told["dealt"]["groups"])
    assert ((groups < 8).sum(axis=1) == 4).all()
    (bound,) = re.findall(r"Every output is within ([\d.]+) of", told["dealt"]["says"])
    assert float(bound) - 0.01 < np.abs(y["dealt"] - whole).max() < float(bound)

    # Sorted: one class on each device, and both land in the same place.
    assert told["sorted"]["groups"] == [[*range(8)], [*range(8, 16)]]
    assert abs(told["sorted"]["apart"]) < 1e-12
    assert abs(y["sorted"][CIRCLES].mean()) < 1e-12
    means = [one["mean"] for one in told["sorted"]["local"]]
    assert means == [start[CIRCLES].mean(), start[SQUARES].mean()]
    for one, other in ((CIRCLES, SQUARES), (SQUARES, CIRCLES)):
        low, high = y["sorted"][other].min(), y["sorted"][other].max()
        inside = (y["sorted"][one] > low - 0.2) & (y["sorted"][one] < high + 0.2)
        assert inside.all()
    # A threshold gets at most ten of the sixteen right; before, one gets all.
    is_square = np.arange(16) >= 8
    hits = [((y["sorted"] > at) == is_square).sum() for at in y["sorted"]]
    assert 6 <= min(hits) <= max(hits) <= 10

    # Synchronized: two numbers from each device, and the outputs of the whole batch.
    assert told["synchronized"]["sent"] == 2 * 2
    np.testing.assert_allclose(y["synchronized"], whole, atol=1e-12)
    assert y["synchronized"][CIRCLES].max() < y["synchronized"][SQUARES].min()

    # One device: the setting changes nothing.
    np.testing.assert_allclose(y["one"], whole, atol=1e-12)
    one = groups_of(1, "dealt")
    assert (normalized(start, one, "local") == normalized(start, one, "synchronized")).all()

    # Parts of four: ghost batches are the same sums.
    ghosts = start[np.array(told["ghost"]["groups"])]
    assert ghosts.shape == (4, 4)
    expected = norm.standardize(ghosts, axis=1, epsilon=1e-3)[0]
    np.testing.assert_allclose(y["ghost"][np.array(told["ghost"]["groups"])], expected, atol=1e-9)

    # Two on each that differ: one at -1, one at +1, and circles on both sides.
    (within,) = re.findall(r"within ([\d.]+\d)", told["pairs"]["says"])
    assert np.abs(np.abs(y["pairs"]) - 1).max() < float(within)
    pairs = np.array(told["pairs"]["groups"])
    assert (np.diff(start[pairs]) != 0).all()
    assert (np.sign(y["pairs"][pairs]).sum(axis=1) == 0).all()
    assert set(np.sign(y["pairs"][CIRCLES])) == {-1, 1}

    # One is pulled: its three companions moved away, the twelve others did not.
    pulled = told["pulled"]
    moved_from, moved_to = map(float, re.search(r"from (\d+) to (\d+)", pulled["says"]).groups())
    assert (start[0], pulled["x"][0], pulled["x"][1:]) == (moved_from, moved_to, list(start[1:]))
    change = y["pulled"] - y["ghost"]
    companions = [i for part in pulled["groups"] if 0 in part for i in part if i]
    assert len(companions) == 3
    assert (change[companions] < 0).all()
    others = [i for i in range(1, 16) if i not in companions]
    assert len(others) == 12
    assert (change[others] == 0).all()


def test_each_sentence_says_what_is_computed(told):
    for name, story in told.items():
        apart = f"{abs(story['apart']):.2f}"
        said = story["sentence"]
        if story["devices"] == 1:
            assert f"end {apart} apart, in standard deviations." in said
        elif story["statistics"] == "synchronized":
            total = story["sent"]
            assert f"2 numbers a channel, {total} in all" in said
            assert f"end {apart} apart, as from one device." in said
        else:
            assert story["sent"] == 0
            assert said.startswith("Nothing is sent")
            share = story["varianceOfMeans"] / story["variance"]
            shown = f"{100 * share:.{1 if share < 0.01 else 0}f}%"
            assert f"{shown} of the variance" in said, name
            assert f"{apart} apart, from one device {story['apartWhole']:.2f}." in said
        others = re.search(r"variance with (?:all|the) (other one|\d+)", said)[1]
        assert (1 if others == "other one" else int(others)) == story["together"] - 1
    assert "4 of the 16 outputs have moved" in told["pulled"]["sentence"]


def test_the_bet_asks_and_answers_what_is_computed(js, told):
    body = "return { ...devices.bet, says: devices.bet.says(state) }"
    bet = js(["devices.js"], body, state=told["sorted"])
    shown = f"{told['one']['apart']:.2f}"
    assert f"{shown} standard deviations apart" in bet["question"]
    assert bet["choices"][0].startswith(shown)
    assert (bet["choices"][bet["right"][0]], bet["show"]) == ("0", "sorted")
    assert "0.00 apart" in bet["says"]


def test_numbers_are_shown_to_two_decimals_at_most(js):
    body = "return numbers.map((value) => [brief(value), isRounded(value)])"
    numbers = [20, 19.25, 0.015625, -0.5, 1 / 3, 0.1 + 0.2, 16.8984375]
    shown = ["20", "19.25", "0.02", "−0.5", "0.33", "0.30", "16.90"]
    rounded = [False, False, True, False, True, False, True]
    assert js(["devices.js"], body, numbers=numbers) == [
        list(both) for both in zip(shown, rounded, strict=True)
    ]


def test_no_dot_covers_another(js):
    """They are piled where they would, each as low as it goes; a high pile is pressed together."""
    places = [[10, 11, 12, 200], [5] * 8, [1, 30, 60]]
    got = js(["devices.js"], "return places.map(piled)", places=places)
    assert [[up for _, up in pile] for pile in got[::2]] == [[0, 13, 26, 0], [0, 0, 0]]
    heights = sorted(up for _, up in got[1])
    np.testing.assert_allclose(heights, np.linspace(0, 40, 8))


def test_the_still_shows_the_same_batch(told):
    stills = extension("explore_stills")
    assert list(stills.SIXTEEN) == told["dealt"]["x"]
    text = stills.devices_still()
    assert text.count("<circle") == text.count("<rect") == 3 * 8
    apart = [float(one) for one in re.findall(r"([\d.]+) apart<", text)]
    assert apart == [
        abs(round(told[name]["apart"], 2)) for name in ("dealt", "sorted", "synchronized")
    ]


@NO_BROWSER
@pytest.mark.parametrize("finger", [False, True])
def test_each_example_can_be_grabbed_where_it_is_seen(browser, tmp_path, finger):
    """Lines are near each other: no thumb may lie over the point of another."""
    css = (ROOT / "book" / "_static" / "explore.css").read_text(encoding="utf-8")
    file = tmp_path / "devices.html"
    file.write_text(
        "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<style>{css}</style><body>"
        "<figure class='bn-explorable' id='devices'><div class='bn-frame'><div class='bn-still'>"
        "</div><div class='bn-live' hidden></div></div></figure>"
        f"<script>{extension('explorables').bundle(['devices'])}</script>",
        encoding="utf-8",
    )
    viewport = {"width": 390, "height": 1600}
    context = browser.new_context(
        viewport=viewport, reduced_motion="reduce", is_mobile=finger, has_touch=finger
    )
    try:
        page = context.new_page()
        page.goto(file.as_uri())
        page.wait_for_selector("#devices[data-ready]")
        missed = page.evaluate(
            """() => {
              const figure = document.getElementById("devices");
              const inputs = [...figure.querySelectorAll(".bn-thumbs input")];
              figure.querySelector(".bn-axes").scrollIntoView({ block: "start" });
              const missed = [];
              for (const order of ["dealt", "sorted"]) {
                for (const x of [figure.state.x, new Array(16).fill(10)]) {
                  figure.set({ order, devices: 8, x });
                  inputs.forEach((input, i) => {
                    const { left, top, width, height } = input.getBoundingClientRect();
                    const at = left + 14 + (input.value / input.max) * (width - 28);
                    const found = document.elementFromPoint(at, top + height / 2);
                    if (found !== input) missed.push([order, i]);
                  });
                }
              }
              return missed;
            }"""
        )
        assert missed == []
    finally:
        context.close()
