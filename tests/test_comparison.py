"""A comparison gives each arm its best chance, and its intervals cover what they say."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from bnutils import studies
from bnutils.evidence import Comparison, interval
from bnutils.studies import chapter_01, chapter_09, chapter_10


def record_of(scores, **coords):
    """A record with the axes arm, rate, seed, part [, step]."""
    scores = np.asarray(scores, dtype=float)
    labels = {
        "arm": ["plain", "BN"][: scores.shape[0]],
        "rate": list(coords.pop("rate", range(scores.shape[1]))),
        "seed": range(scores.shape[2]),
        "part": ["validation", "test"],
        **coords,
    }
    return xr.Dataset(
        {"accuracy": (tuple(labels), scores)},
        labels,
        attrs={"provenance": json.dumps({"overlap": 0.0})},
    )


def test_each_replicate_chooses_on_its_own_validation_part():
    #                 rate 0: (val, test)        rate 1
    scores = [[[[0.9, 0.1], [0.2, 0.3]], [[0.5, 0.6], [0.7, 0.8]]]]
    chosen = Comparison(record_of(scores), "accuracy", ["rate"]).values("plain")
    assert chosen.values.tolist() == [0.1, 0.8]


def test_test_scores_never_choose():
    rng = np.random.default_rng(0)
    scores = rng.random((1, 5, 30, 2))
    before = Comparison(record_of(scores), "accuracy", ["rate"]).chosen("plain")
    scores[..., 1] = rng.random((1, 5, 30))
    assert Comparison(record_of(scores), "accuracy", ["rate"]).chosen("plain") == before


def test_a_diverged_setting_is_the_worst():
    scores = np.full((1, 2, 3, 2), 0.5)
    scores[:, 0] = np.nan
    assert Comparison(record_of(scores), "accuracy", ["rate"]).values("plain").min() == 0.5


def test_equally_good_settings_are_averaged_and_no_other_replicate_has_a_say():
    scores = np.zeros((1, 3, 4, 2))
    scores[0, :2, 0, 0] = 0.9  # the first replicate can't tell two rates apart
    scores[0, :, 0, 1] = [0.2, 0.6, 1.0]
    scores[0, 1, 1:, 0] = 0.8  # the others prefer the second rate
    scores[0, 1, 1:, 1] = 1.0
    compared = Comparison(record_of(scores), "accuracy", ["rate"])
    assert compared.values("plain").values == pytest.approx([0.4, 1, 1, 1])
    assert compared.chosen("plain")["rate"]["share"] == pytest.approx(0.875)
    curve = compared.at_chosen("accuracy", "plain").sel(part="test")
    assert curve.values == pytest.approx([0.4, 1, 1, 1])


def test_a_quarter_of_the_choices_at_an_end_of_the_grid_is_flagged():
    scores = np.zeros((1, 3, 4, 2))
    scores[0, 1, :3, 0] = scores[0, 2, 3, 0] = 1
    chosen = Comparison(record_of(scores, rate=[0.1, 1.0, 10.0]), "accuracy", ["rate"])
    assert chosen.chosen("plain") == {"rate": {"value": 1.0, "share": 0.75, "edge": True}}


@pytest.mark.parametrize(("best", "edge"), [(0, True), (1, False), (2, True)])
def test_a_choice_at_the_edge_of_its_grid_is_flagged(best, edge):
    scores = np.zeros((1, 3, 4, 2))
    scores[0, best, :, 0] = 1
    chosen = Comparison(record_of(scores, rate=[0.1, 1.0, 10.0]), "accuracy", ["rate"])
    assert chosen.chosen("plain") == {
        "rate": {"value": [0.1, 1.0, 10.0][best], "share": 1.0, "edge": edge}
    }
    assert ("*" in chosen.table().loc["plain", "rate"]) == edge


def test_the_most_frequent_choice_at_an_end_is_flagged_however_few_made_it():
    scores = np.zeros((1, 9, 9, 2))
    for seed, best in enumerate([8, 8, 1, 2, 3, 4, 5, 6, 7]):
        scores[0, best, seed, 0] = 1
    compared = Comparison(record_of(scores), "accuracy", ["rate"])
    assert compared.seeds == 9
    chosen = compared.chosen("plain")["rate"]
    assert (chosen["value"], chosen["edge"]) == (8, True)
    assert chosen["share"] == 0.222  # of nine replicates two


def test_splits_of_one_pool_widen_all_intervals_of_a_comparison():
    record = record_of(np.random.default_rng(0).uniform(1, 2, (2, 1, 6, 2)))
    for ask in (
        lambda c: c.mean("BN"),
        lambda c: c.gain("BN", "plain"),
        lambda c: c.ratio("BN", "plain"),
    ):
        apart, pooled = (
            ask(Comparison(record, "accuracy", ["rate"], overlap=overlap)) for overlap in (0, 0.5)
        )
        assert pooled.mean == pytest.approx(apart.mean)
        assert pooled.standard_error == pytest.approx(2 * apart.standard_error)  # 1/6 + 1/2


@pytest.mark.parametrize(
    ("rates", "edge"), [([0.1, 1.0], True), ([0.1], False), (["low", "high"], False)]
)
def test_only_a_grid_of_numbers_has_edges(rates, edge):
    scores = np.zeros((1, len(rates), 4, 2))
    chosen = Comparison(record_of(scores, rate=rates), "accuracy", ["rate"]).chosen("plain")
    assert chosen["rate"]["edge"] is edge


def test_gain_at_chosen_and_at_equal_settings():
    scores = np.zeros((2, 2, 3, 2))
    scores[0, 0], scores[0, 1] = 0.5, 0.8  # plain is best at the second rate
    scores[1, 0], scores[1, 1] = 0.9, 0.1  # BN at the first
    compared = Comparison(record_of(scores), "accuracy", ["rate"])
    assert compared.gain("BN", "plain").mean == pytest.approx(0.1)
    assert compared.gain("BN", "plain", rate=0).mean == pytest.approx(0.4)
    assert compared.gain("BN", "plain", rate=1).mean == pytest.approx(-0.7)


def test_steps_are_minimized_and_censored_runs_count_with_the_last_step():
    curves = np.zeros((2, 1, 4, 2, 3))
    curves[0, ..., 2] = 0.9  # plain gets there at the last step
    curves[0, 0, 0] = 0.0  # but for one replicate
    curves[1, ..., 1:] = 0.9
    record = record_of(curves, step=[0, 10, 40])
    race = Comparison.of_steps(record, "accuracy", 0.8, ["rate"])
    assert race.values("plain").values.tolist() == [40, 40, 40, 40]
    assert race.values("BN").values.tolist() == [10, 10, 10, 10]
    assert (race.censored("plain"), race.censored("BN")) == (0.25, 0.0)
    slower = race.ratio("plain", "BN")
    assert slower.mean == pytest.approx(4)
    assert slower.high == np.inf  # a replicate that never got there may be slower still
    assert "25% of plain never got there" in slower.method
    assert race.ratio("BN", "plain").low == 0
    table = race.table(spec=".1f")
    assert table.loc["plain", "never"] == "25%"
    assert table.loc["BN"].tolist() == ["0", "0%", "10.0 ± 0.0"]


def test_the_setting_with_the_fewest_steps_is_chosen_and_named():
    curves = np.zeros((2, 3, 4, 2, 3))  # arm, rate, seed, part, step
    curves[..., 2] = 0.9
    curves[:, 1, ..., 1] = 0.9  # at the second rate all get there earlier
    record = record_of(curves, step=[0, 10, 40]).rename(rate="learning_rate")
    race = Comparison.of_steps(record, "accuracy", 0.8, ["learning_rate"])
    assert race.values("BN").values.tolist() == [10] * 4
    assert race.chosen("BN")["learning_rate"]["value"] == 1
    assert list(race.table().columns) == ["learning rate", "never", "steps to 0.8"]


def test_what_is_no_number_at_the_chosen_setting_stays_none():
    scores = np.zeros((1, 2, 3, 2))
    scores[0, 1, :, 0] = 1.0  # the second rate is chosen
    compared = Comparison(record_of(scores), "accuracy", ["rate"])
    other = record_of(scores)["accuracy"].copy()
    other[0, 1, 1] = np.nan
    other[0, 0] = np.nan  # of what was not chosen nothing is seen
    found = compared.at_chosen(other, "plain").sel(part="test")
    np.testing.assert_array_equal(found, [0, np.nan, 0])


def test_scores_that_grow_have_ratios_with_two_ends():
    scores = np.random.default_rng(0).uniform(1, 2, (2, 1, 4, 2))
    ratio = Comparison(record_of(scores), "accuracy", ["rate"]).ratio("BN", "plain")
    assert 0 < ratio.low < ratio.mean < ratio.high < np.inf
    assert "open" not in ratio.method
    table = Comparison(record_of(scores), "accuracy", ["rate"]).table(spec=".2f")
    assert re.fullmatch(r"1\.\d\d ± 0\.\d\d", table.loc["BN", "accuracy"])


def test_ratios_along_an_axis_are_open_where_a_replicate_never_got_there():
    curves = np.zeros((2, 1, 4, 2, 2, 3))  # arm, rate, seed, part, batch size, step
    curves[..., 2] = 0.9
    curves[1, ..., 1] = 0.9
    curves[0, 0, 0, :, 1] = 0.0  # of plain one does not, at the second size
    record = record_of(curves, batch_size=[2, 4], step=[0, 10, 40])
    race = Comparison.of_steps(record, "accuracy", 0.8, ["rate"])
    slower, faster = race.ratio("plain", "BN"), race.ratio("BN", "plain")
    assert slower.mean == pytest.approx([4, 4])
    assert slower.high == pytest.approx([4, np.inf])
    assert slower.low == pytest.approx([4, 4])
    assert faster.low == pytest.approx([0.25, 0])
    assert faster.high == pytest.approx([0.25, 0.25])
    assert "12% of plain never got there" in slower.method
    assert race.censored("plain") == 0.125
    alone = race.ratio("plain", "BN", batch_size=4)
    assert (alone.mean, alone.high) == (pytest.approx(4), np.inf)
    assert race.ratio("plain", "BN", batch_size=2).high == pytest.approx(4)


def test_other_axes_stay():
    scores = np.random.default_rng(0).random((2, 3, 4, 2, 5))
    record = record_of(scores, batch_size=[2, 4, 8, 16, 32])
    compared = Comparison(record, "accuracy", ["rate"])
    gain = compared.gain("BN", "plain")
    assert gain.mean.shape == (5,)
    alone = Comparison(record, "accuracy", ["rate"], batch_size=8).gain("BN", "plain")
    assert gain[2].mean == pytest.approx(alone.mean)
    assert gain[2].low == pytest.approx(alone.low)


def test_means_are_a_table_of_arms_by_the_axis_that_stays():
    scores = np.random.default_rng(0).random((2, 3, 4, 2, 5))
    record = record_of(scores, batch_size=[2, 4, 8, 16, 32])
    compared = Comparison(record, "accuracy", ["rate"])
    assert compared.means().dims == ("arm", "batch_size")
    table = compared.means().to_pandas()
    assert table.columns.tolist() == [2, 4, 8, 16, 32]
    for arm in ("plain", "BN"):
        for size in table.columns:
            alone = compared.mean(arm, batch_size=size).mean
            assert table.loc[arm, size] == pytest.approx(alone)


def test_curves_at_the_chosen_settings():
    scores = np.zeros((2, 3, 4, 2))
    scores[0, 1, :, 0] = 1
    record = record_of(scores)
    record["loss"] = (("arm", "rate", "seed", "time"), np.zeros((2, 3, 4, 7)) + 5)
    record["loss"][0, 1] = 3
    curve = Comparison(record, "accuracy", ["rate"]).at_chosen("loss", "plain")
    assert curve.dims == ("seed", "time")
    assert (curve == 3).all()


def test_one_replicate_tells_nothing_and_does_not_fail():
    compared = Comparison(record_of(np.ones((2, 1, 1, 2))), "accuracy", ["rate"])
    gain = compared.gain("BN", "plain")
    assert (gain.mean, gain.low, gain.high) == (0, -np.inf, np.inf)
    assert "no interval" in compared.table().iloc[0, -1]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: Comparison(r, "loss", ["rate"]), "loss: expected one of"),
        (lambda r: Comparison(r, "accuracy", ["scale"]), "scale: expected an axis"),
        (lambda r: Comparison(r, "accuracy", ["rate"]).values("LN"), "LN: expected one of"),
        (lambda r: Comparison(r, "accuracy").values("BN", rate=9), "rate=9: expected one of"),
    ],
)
def test_what_is_not_there_is_named(ask, message):
    with pytest.raises(KeyError, match=message):
        ask(record_of(np.ones((2, 2, 2, 2))))


# ------------------------------------------------------------------- coverage, with a known truth


def world(rng, pool, sizes, replicates, settings=4):
    """Scores of one imagined project: a pool of images, split anew in each replicate.

    Each image has a difficulty, and one of its own for each arm; what an arm learns depends on
    which images it trains on, and on the seed. Two of the four settings are near ties.
    """
    train, validation, test = sizes
    difficulty = rng.normal(size=pool) + 0.6 * rng.normal(size=(2, pool))
    use = rng.normal(0, 1.5, size=(2, pool))  # what training on an image does to an arm
    skill = 1.6 + np.array([[0.0, -0.3, -0.02, -0.6], [0.1, -0.2, 0.09, -0.5]])[:, :settings]
    scores = np.empty((2, settings, replicates, 2))
    for r in range(replicates):
        order = rng.permutation(pool)
        learned = use[:, order[:train]].mean(axis=1)
        level = skill + learned[:, None] + rng.normal(0, 0.04, size=skill.shape)
        for p, rows in enumerate((order[train : train + validation], order[-test:])):
            noise = rng.normal(0, 0.3, size=(2, settings, len(rows)))
            right = level[:, :, None] + noise > difficulty[:, None, rows]
            scores[:, :, r, p] = right.mean(axis=-1)
    return scores


@pytest.fixture(scope="module")
def projects():
    """Gains of 500 projects of ten replicates each, as intervals with and without correction."""
    rng = np.random.default_rng(0)
    sizes = 700, 150, 150
    plain, corrected = [], []
    for _ in range(500):
        record = record_of(world(rng, sum(sizes), sizes, replicates=10))
        for overlap, intervals in ((0.0, plain), (sizes[2] / sizes[0], corrected)):
            compared = Comparison(record, "accuracy", ["rate"], overlap=overlap)
            intervals.append(compared.gain("BN", "plain"))
    return plain, corrected


def coverage(intervals):
    """Share that holds the truth: the mean over all projects, each with a pool of its own."""
    truth = np.mean([each.mean for each in intervals])
    return np.mean([each.low <= truth <= each.high for each in intervals])


def test_intervals_cover_seeds_data_and_choice_at_ten_replicates(projects):
    _, corrected = projects
    assert coverage(corrected) >= 0.93


def test_without_the_correction_they_would_not(projects):
    plain, _ = projects
    assert coverage(plain) < 0.9


def test_independent_replicates_need_no_correction():
    rng = np.random.default_rng(1)
    covered = [
        each.low <= 0.3 <= each.high
        for each in (interval(rng.normal(0.3, 1, size=10)) for _ in range(2000))
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"choose": "seed"}, ValueError, r"expected a sequence of axes, \['seed'\], got 'seed'"),
        ({"momentum": 0.5}, KeyError, r"momentum=0.5: expected one of \[0.9, 0.99\]"),
        ({"level": "0.8"}, ValueError, "level: expected a number, got '0.8'"),
        ({"level": 80}, ValueError, "level: expected an accuracy between 0 and 1, got 80"),
    ],
)
def test_what_a_race_is_asked_for_is_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        chapter_01.race_to(**{"level": 0.8, **arguments})


def test_a_plot_says_what_it_cannot_draw():
    early = studies.load("fine-tuning").sel(arm=["inference mode"])
    with pytest.raises(ValueError, match=r"'all trainable' or 'frozen'.*'inference mode'"):
        chapter_09.plot_training(live=early)
    live = studies.load("folding-speed").assign_coords(batch_size=[4, 8])
    with pytest.raises(ValueError, match=r"\[1, 64\], which are drawn, got \[4, 8\]"):
        chapter_10.plot_speed(live)


def test_a_run_with_other_batches_than_the_record_is_drawn_as_such():
    few = {"images": ["faded"], "arm": ["all trainable"], "seed": [0], "learning_rate": [0.003]}
    live = studies.get("fine-tuning").run(
        **few, updates=[0, 5], batch_size=2, head_steps=5, workers=1
    )
    for run, title in ((live, "faded images, diamonds: batches of 2"), (None, "faded images")):
        chapter_09.plot_training(["faded"], run)
        ax = plt.gca()
        # Where a title stands is a matter of the style, which another test may have set.
        assert ax.get_title("left") + ax.get_title("center") == title
        plt.close()
