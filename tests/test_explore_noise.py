"""How noisy is a batch: the draws, the formulas, and what is said under each story."""

import numpy as np
import pytest
from explore import extension, stories

from bnutils import norm
from bnutils.studies import points

RUN = """
  const settings = { ...startOf(noise.settings), ...given };
  const run = noise.start(settings);
  const outputs = [], variances = [], means = [];
  for (let i = 0; i < count; i += 1) {
    noise.step(run, settings);
    outputs.push(run.output);
    const { mean, variance } = moments(run.batch);
    means.push(mean);
    variances.push(variance);
  }
  return { ...noise.derive(settings, run), outputs, means, variances, bins: run.bins };"""
EPSILON = 1e-3


@pytest.fixture(scope="module")
def run(js):
    def go(count=1000, **given):
        return js(["settings.js", "norm.js", "noise.js"], RUN, given=given, count=count)

    return go


def outputs(m, z=1.0, rho=0.0, batches=20_000, draw=None):
    """Outputs of an example at z in many batches, and the statistics of these, in NumPy."""
    rng = np.random.default_rng(3)
    draw = draw or (lambda *shape: rng.normal(size=shape))
    x = np.sqrt(rho) * draw(batches, 1) + np.sqrt(1 - rho) * draw(batches, m)
    means = x.mean(1)
    x[:, 0] = z
    x_hat, _, variance = norm.standardize(x, axis=1, epsilon=EPSILON)
    return x_hat[:, 0], means, variance[:, 0]


def test_the_draws_are_those_of_python(run):
    random = points.Random(1, 7)
    got = run(count=5, m=8, z=2)
    for output in got["outputs"]:
        random.normal(1)  # what alike examples share
        batch = random.normal(8)
        batch[0] = 2
        expected, _, _ = norm.standardize(batch[:, None], axis=0, epsilon=EPSILON)
        assert output == pytest.approx(expected[0, 0], rel=1e-9)
    assert sum(got["bins"]) == 5
    assert got["meanOutput"] == pytest.approx(np.mean(got["outputs"]))
    assert got["sdOutput"] == pytest.approx(np.std(got["outputs"]))


@pytest.mark.parametrize("rho", [0, 0.1, 0.5])
@pytest.mark.parametrize("m", [2, 32])
def test_the_mean_of_a_batch_varies_as_the_formula_says(run, m, rho):
    _, means, _ = outputs(m, rho=rho)
    got = run(m=m, rho=rho)
    assert got["sdMeanFormula"] == pytest.approx(means.std(), rel=0.03)
    assert got["sdMean"] == pytest.approx(got["sdMeanFormula"], rel=0.1)


@pytest.mark.parametrize(("m", "z"), [(16, 0), (16, 1), (32, 1.5), (128, -1.5)])
def test_the_output_varies_as_the_formula_says_from_16(run, m, z):
    found, _, _ = outputs(m, z)
    got = run(m=m, z=z)
    assert got["formula"] == pytest.approx(found.std(), rel=0.1)
    assert got["sdOutput"] == pytest.approx(found.std(), rel=0.1)


def test_below_16_there_is_no_formula_since_outputs_have_a_ceiling(run):
    for m, z, formula, spread in [(4, 1, 0.612, 0.515), (2, 2, 1.225, 0.284)]:
        assert np.sqrt((1 + z**2 / 2) / m) == pytest.approx(formula, abs=1e-3)
        assert outputs(m, z)[0].std() == pytest.approx(spread, rel=0.05)
        assert run(m=m, z=z, count=2)["formula"] is None
    assert run(m=32, z=2, count=2)["formula"] is None


def test_each_population_has_mean_0_and_spread_1(js):
    body = """
      return Object.values(POPULATIONS).map(({ draw, density }) => {
        const random = randomStream(1), all = Array.from({ length: 100000 }, () => draw(random));
        const { mean, variance } = moments(all);
        let area = 0;
        for (let x = -8; x < 12; x += 0.01) area += density(x) * 0.01;
        return [mean, variance, area];
      });"""
    for mean, variance, area in js(["norm.js", "noise.js"], body):
        assert abs(mean) < 0.02
        assert variance == pytest.approx(1, abs=0.03)
        assert area == pytest.approx(1, abs=0.02)


def test_each_story_is_true_in_python_and_on_the_page(js, run):
    told = stories(js, "noise")
    sizes = {32: run(), 128: run(m=128), 8: run(m=8)}
    for size, got in sizes.items():
        assert got["sdOutput"] == pytest.approx(outputs(size)[0].std(), rel=0.1)
    assert sizes[32]["meanOutput"] == pytest.approx(1, abs=0.05)
    assert sizes[32]["sdOutput"] / sizes[128]["sdOutput"] == pytest.approx(2, rel=0.15)
    assert 1.7 < sizes[8]["sdOutput"] / sizes[32]["sdOutput"] < 2.2
    for found in (np.array(run(m=2)["outputs"]), outputs(2)[0]):
        assert np.mean(np.abs(np.abs(found) - 1) < 0.1) > 0.9
        assert 0.05 < np.mean(found < 0) < 0.5
    assert told["alike"]["worth"] == pytest.approx(8, abs=0.25)
    assert outputs(32, rho=0.1)[1].std() == pytest.approx(outputs(8)[1].std(), rel=0.05)
    rng = np.random.default_rng(0)
    _, means, variances = outputs(32, draw=lambda *shape: rng.exponential(size=shape) - 1)
    skewed, normal = run(population="skewed"), sizes[32]
    assert means.std() == pytest.approx(normal["sdMeanFormula"], rel=0.05)
    assert skewed["sdMean"] == pytest.approx(normal["sdMeanFormula"], rel=0.1)
    assert np.std(skewed["variances"]) > 1.3 * np.std(normal["variances"])
    assert variances.std() > 1.3 * outputs(32)[2].std()
    assert set(told) == {"usual", "large", "small", "two", "alike", "skewed"}


def test_the_bet_says_what_the_formula_gives(js):
    said = js(["noise.js"], "return noise.bet.says()")
    assert f"from {np.sqrt(1.5 / 128):.2f} to {np.sqrt(1.5 / 32):.2f}" in said
    assert extension("explorables").FIGURES["noise"][1] == "noise"
