"""Figures to touch: how their modules are joined, and that their mathematics is bnutils.norm's."""

import json
import re

import numpy as np
import pytest
from explore import ROOT, extension, stories

from bnutils import norm

explorables = extension("explorables")
SOURCES = sorted((ROOT / "book" / "_explore").glob("*.js"))
CASES = [
    (m, scale, epsilon)
    for m in (2, 3, 4, 32, 256)
    for scale in (1e-3, 1, 1e3)
    for epsilon in (1e-5, 1e-3)
]


def test_the_whole_agrees_with_numpy(js):
    """Forward, gradient, inference, moving statistics, on 30 batches of all sizes and scales."""
    rng = np.random.default_rng(12)
    batches = []
    for m, scale, epsilon in CASES:
        x, dy = scale * (rng.normal(size=m) + 0.3), rng.normal(size=m)
        gamma, beta = rng.normal(size=2)
        batches.append(
            {"x": x.tolist(), "dy": dy.tolist(), "gamma": gamma, "beta": beta, "epsilon": epsilon}
        )
    body = """
      return batches.map(({ x, dy, gamma, beta, epsilon }) => {
        const forward = batchNorm(x, gamma, beta, epsilon);
        const back = batchNormGrad(dy, forward.xHat, forward.inverse, gamma);
        const means = [moved(0.5, forward.mean, 0.9), moved(2, forward.variance, 0.9)];
        const atInference = batchNormInference(x, gamma, beta, ...means, epsilon);
        return { ...forward, ...back, means, atInference };
      });"""
    results = js(["norm.js"], body, batches=batches)
    for batch, got in zip(batches, results, strict=True):
        x, dy = np.array(batch["x"])[:, None], np.array(batch["dy"])[:, None]
        layer = norm.BatchNorm(momentum=0.9, epsilon=batch["epsilon"])
        layer.gamma, layer.beta = np.array([batch["gamma"]]), np.array([batch["beta"]])
        layer.moving_mean, layer.moving_variance = np.array([0.5]), np.array([2.0])
        y = layer(x, training=True)
        dx = layer.backward(dy)
        size = np.abs(batch["gamma"] * got["inverse"] * dy).max()
        tight = 1e-6 if len(x) == 2 else 1e-9
        np.testing.assert_allclose(got["y"], y[:, 0], rtol=tight, atol=tight)
        np.testing.assert_allclose(got["dx"], dx[:, 0], atol=1e-6 * size)
        np.testing.assert_allclose(got["dgamma"], layer.dgamma[0], rtol=tight, atol=tight)
        np.testing.assert_allclose(got["dbeta"], layer.dbeta[0], rtol=tight, atol=tight)
        np.testing.assert_allclose(
            got["means"], [layer.moving_mean[0], layer.moving_variance[0]], rtol=1e-12
        )
        np.testing.assert_allclose(got["atInference"], layer(x)[:, 0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- mean) ** 2, 0) / x.length", "- mean) ** 2, 0) / (x.length - 1)"),
        ("value - dbeta / m - (", "value - ("),
        ("- (xHat[i] * dgamma) / m", "+ (xHat[i] * dgamma) / m"),
        ("beta - scale * movingMean", "beta + scale * movingMean"),
        ("(1 - momentum) * ofBatch", "momentum * ofBatch"),
    ],
)
def test_a_slip_in_the_formulas_is_noticed(js, monkeypatch, old, new):
    source = explorables.source_of("norm.js")
    assert old in source
    read = explorables.source_of
    slip = {"norm.js": source.replace(old, new)}
    monkeypatch.setattr(explorables, "source_of", lambda file: slip.get(file) or read(file))
    with pytest.raises(AssertionError):
        test_the_whole_agrees_with_numpy(js)


def test_each_story_of_one_unit_is_true(js):
    told = stories(js, "one-unit")
    for story in told.values():
        x = np.array(story["x"], float)
        if story["mode"] == "training":
            y = norm.batch_norm(
                x[:, None],
                np.array([story["gamma"]]),
                np.array([story["beta"]]),
                epsilon=story["epsilon"],
            )[0]
            np.testing.assert_allclose(story["y"], y[:, 0], atol=1e-9)
    start, outlier, far = told["start"], told["outlier"], told["far"]
    assert (start["mean"], start["std"]) == (10, 5)
    spread = lambda story: np.ptp(story["y"][:3])  # noqa: E731
    assert spread(outlier) < spread(start)
    assert max(outlier["y"][:3]) < 0
    assert 1.73 < far["y"][3] < 3**0.5
    assert spread(far) < 0.02
    np.testing.assert_allclose(told["shifted"]["y"], start["y"], atol=1e-12)
    np.testing.assert_allclose(np.sign(told["two"]["y"]), [-1, 1])
    assert 0.9 < told["two"]["y"][1] < 1
    assert told["equal"]["y"] == [0] * 4
    np.testing.assert_allclose(told["undone"]["y"], start["x"], atol=1e-3)
    early = told["early"]
    np.testing.assert_allclose([early["movingMean"], early["movingVariance"]], [1, 3.4])
    assert min(early["y"]) > 1
    said = re.search(r"moving mean is (\S+) and the moving variance ([\d.]+\d)", early["says"])
    shown = [f"{early[key]:.3g}" for key in ("movingMean", "movingVariance")]
    assert list(said.groups()) == shown


def test_no_spread_and_no_epsilon_is_not_nan(js):
    got = js(["norm.js"], "return batchNorm([5, 5, 5], 2, 1, 0)")
    assert got["y"] == [1, 1, 1]


def test_settings_are_read_from_links_and_never_break(js):
    queries = [
        "?one-unit.x=3,9,11,40&one-unit.gamma=2",
        "?one-unit.gamma=1e9&one-unit.beta=",
        "?one-unit.x=3",
        "?one-unit.x=1,NaN,3",
        "?one-unit.x=1,2,3,4,5,6,7,8,9",
        "?one-unit.mode=sleep&one-unit.epsilon=0.02",
        "?race.x=1,2",
        "?one-unit.step=99999999",
        "?one-unit.preset=none",
    ]
    got = js(
        ["settings.js", "one_unit.js"],
        "return queries.map((query) => settled(oneUnit, fromQuery(oneUnit, query)))",
        queries=queries,
    )
    assert got == [
        {"x": [3, 9, 11, 40], "gamma": 2},
        {"gamma": 5},
        {},
        {},
        {},
        {"epsilon": 0.001},
        {},
        {"step": 5000},
        {},
    ]
    state = {
        "x": [3, 9, 11, 40],
        "gamma": 2,
        "beta": 0,
        "mode": "inference",
        "epsilon": 0.001,
        "momentum": 0.9,
        "focus": 3,
        "step": 3,
    }
    body = """
      const query = toQuery(oneUnit, state);
      return { query, back: settled(oneUnit, fromQuery(oneUnit, query)) };"""
    got = js(["settings.js", "one_unit.js"], body, state=state)
    assert (
        got["query"]
        == "?one-unit.x=3,9,11,40&one-unit.gamma=2&one-unit.mode=inference&one-unit.step=3"
    )
    assert got["back"] == {"x": [3, 9, 11, 40], "gamma": 2, "mode": "inference", "step": 3}


def test_modules_keep_to_the_subset_and_the_bundles_to_their_size():
    import gzip

    assert json.loads((ROOT / "book/_explore/package.json").read_text()) == {"type": "module"}
    explorables.joined([path.name for path in SOURCES], "")  # raises what is wrong
    for path in SOURCES:  # what makes a script small would take spaces out of these
        nested = re.search(r"\$\{[^}`]*`", path.read_text(encoding="utf-8"))
        assert not nested, (path.name, nested[0])
    for name in explorables.FIGURES:
        text = explorables.bundle([name]).encode()
        # These two train networks, and hold recorded runs.
        times = 1.45 if name in {"race", "map"} else 1
        assert len(text) <= 40_000 * times, name
        assert len(gzip.compress(text, 6)) <= 12_000 * times, name


def test_a_page_of_small_figures_goes_without_what_only_whole_ones_have():
    import gzip

    names = ["one-unit", "lagging", "race"]  # those of the introduction
    small, whole = explorables.bundle(names, names), explorables.bundle(names, names[1:])
    parts = re.findall(r"\w+: (\w+)", explorables.WHOLE)
    assert len(parts) == 6
    for part in parts:
        assert f"function {part}(" in whole
        assert part not in small
    assert len(gzip.compress(small.encode(), 6)) <= 25_000


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.js": 'import { b } from "./b.js";\n', "b.js": 'import { a } from "./a.js";\n'},
            "imports itself",
        ),
        ({"a.js": 'import { b } from "./b.js";\n', "b.js": "function b() {}\n"}, "doesn't export"),
        ({"a.js": "export default 3;\n"}, "not in the subset"),
        ({"a.js": 'import b from "./b.js";\n'}, "not in the subset"),
        (
            {
                "a.js": 'import { c } from "./b.js";\nconst d = 1;\n',
                "b.js": "export const c = 1;\nconst d = 2;\n",
            },
            "d stands in",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(monkeypatch, files, message):
    monkeypatch.setattr(explorables, "source_of", files.__getitem__)
    with pytest.raises(ValueError, match=message):
        explorables.joined(["a.js"], "")


def test_what_nothing_names_is_left_out(monkeypatch):
    text = (
        "export function used() {\n  return 1;\n}\n"
        "function helper() {\n  // said inside\n  return used();\n}\n"
        "export function unused() {\n  return helper();\n}\n"
    )
    monkeypatch.setattr(explorables, "source_of", {"a.js": text}.__getitem__)
    got = explorables.joined(["a.js"], "used();")
    assert got == '(() => {\n"use strict";\nfunction used() {\n  return 1;\n}\nused();\n})()\n'


def test_no_script_lands_on_every_page():
    """Jupyter Book puts each script below a root `_static` on all pages."""
    assert not (ROOT / "_static").exists()
    assert not list((ROOT / "book" / "_static").rglob("*.js"))


def test_a_paragraph_becomes_a_figure_and_words_set_it():
    text = (
        "Before.\n\n**Figure to touch: one-unit, small.** A *caption*,\nlong.\n\n"
        "Now [pull](#one-unit?x=3,9&gamma=2) it."
    )
    assert explorables.with_figures(text, "page") == (
        "Before.\n\n```{explorable} one-unit\n:small:\n\nA *caption*,\nlong.\n```\n\n"
        'Now <a data-sets="one-unit" href="?one-unit.x=3,9&amp;one-unit.gamma=2#one-unit">'
        "pull</a> it."
    )
