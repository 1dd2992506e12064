"""The look of figures: fixed arms, readable on light and dark, the same bytes twice."""

import base64
import io
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_rgb
from PIL import Image
from traitlets.config import Config

from bnutils import evidence, plots


@pytest.fixture(autouse=True)
def clean_style():
    with mpl.rc_context():
        mpl.use("svg")
        plots.use_style()
        yield
        plt.close("all")


def linear(color):
    """Red, green and blue in proportion to their light, from an sRGB color."""
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(color):
    """Relative luminance of WCAG 2.1."""
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_bn_is_always_blue_and_no_two_arms_look_alike():
    red, green, blue = to_rgb(plots.arm_style("BN")["color"])
    assert blue > max(red, green)
    looks = [(s["color"], s["linestyle"]) for s in plots.ARMS.values()]
    assert len(set(looks)) == len(looks)
    for a, b in itertools.combinations(plots.ARMS.values(), 2):
        assert a["color"] != b["color"]


GROUNDS = ["#ffffff", "#14181e"]
DRAWN = [name for name in plots.COLORS if name != "ground" and not name.startswith("land-")]
# How each kind of color vision mixes linear red, green and blue: Machado, Oliveira and Fernandes
# (2009), at full severity.
SEEN = {
    "all three": np.eye(3),
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def oklab(light):
    """Linear red, green and blue as lightness and two opponent colors (Ottosson, 2020)."""
    cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    mix = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(mix) @ np.cbrt(np.array(cones) @ light)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_their_ground(theme):
    ground = GROUNDS[theme]
    assert plots.COLORS["ground"][theme] == ground
    for name in DRAWN:  # labels at a line have its color, so lines too are held to text's 4.5
        assert contrast(plots.COLORS[name][theme], ground) >= 4.5, name
    ink = plots.COLORS["ink"][theme]
    steps = [contrast(plots.COLORS[f"land-{step}"][theme], ink) for step in range(5)]
    assert min(steps) >= 4.5
    assert steps == sorted(steps, reverse=True)  # fuller land is always farther from the ground


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("mixing", SEEN.values(), ids=SEEN)
def test_arms_are_told_apart_with_any_common_color_vision(theme, mixing):
    look = {}
    for name in DRAWN:
        seen = np.array(mixing) @ linear(plots.COLORS[name][theme])
        look[name] = oklab(np.clip(seen, 0, 1))
    look.pop("faint")  # no arm is drawn in it
    for (a, one), (b, other) in itertools.combinations(look.items(), 2):
        # Two colors side by side differ to the eye from about 0.02 on.
        assert np.linalg.norm(one - other) >= 0.06, (a, b)


def test_each_light_color_has_one_name():
    light = [one for one, _ in plots.COLORS.values()]
    assert len(set(light)) == len(light)
    assert all(look["color"] in light for look in plots.ARMS.values())


def drawn_by_ipython(figure):
    """What a kernel sends to a notebook: data by MIME type, and what is said about them."""
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    mpl.use("module://matplotlib_inline.backend_inline")
    plots.use_style()
    try:
        return shell.display_formatter.format(figure())
    finally:
        InteractiveShell.clear_instance()


def simple():
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    return figure


def test_a_notebook_gets_a_figure_for_any_theme_with_and_without_trust():
    data, about = drawn_by_ipython(simple)
    assert set(data) == {"image/svg+xml", "image/png", "text/plain"}
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    *ground, opacity = picture.convert("RGBA").getpixel((0, 0))
    assert opacity == 255
    assert contrast(plots.INK, [part / 255 for part in ground]) >= 7
    assert abs(picture.width - 2 * about["image/png"]["width"]) <= 1  # sharp on a good screen
    again, _ = drawn_by_ipython(simple)
    assert again["image/png"] == data["image/png"]
    assert again["image/svg+xml"] == data["image/svg+xml"]


def test_a_page_gets_a_figure_without_its_ground():
    data, _ = drawn_by_ipython(simple)
    svg = data["image/svg+xml"]
    assert f'fill: {plots.GROUND}"' in svg
    bare = plots.without_ground(svg)
    assert plots.GROUND not in bare
    assert bare.replace("fill: none", "") == svg.replace(f"fill: {plots.GROUND}", "").replace(
        "fill: none", ""
    )
    assert plots.without_ground(bare) == bare


def test_white_inside_a_figure_stays_white():
    figure = simple()
    figure.axes[0].set_facecolor(plots.GROUND)
    file = io.StringIO()
    figure.savefig(file, format="svg")
    assert file.getvalue().count(f"fill: {plots.GROUND}") == 2
    assert plots.without_ground(file.getvalue()).count(f"fill: {plots.GROUND}") == 1


def test_changing_a_style_does_not_change_the_arm():
    plots.arm_style("BN")["color"] = "red"
    assert plots.arm_style("BN")["color"] != "red"


def test_band_draws_the_mean_and_its_interval():
    x, values = np.arange(3), np.random.default_rng(0).normal(size=(10, 3))
    _, ax = plt.subplots()
    plots.band(ax, x, values, "BN", "ours")
    (line,), (area,) = ax.lines, ax.collections
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
    assert line.get_label() == "ours"
    corners = area.get_paths()[0].vertices
    for column, point in zip(values.T, x, strict=True):
        spread = evidence.interval(column)
        edges = corners[corners[:, 0] == point, 1]
        assert edges.min() == pytest.approx(spread.low)
        assert edges.max() == pytest.approx(spread.high)


def test_a_band_covers_that_the_runs_share_data_and_one_run_has_none():
    x, values = np.arange(3), np.random.default_rng(0).normal(size=(10, 3))
    _, (wide, bare) = plt.subplots(1, 2)
    plots.band(wide, x, values, "BN", overlap=0.4)
    edges = wide.collections[0].get_paths()[0].vertices
    spread = evidence.interval(values[:, 1], overlap=0.4)
    assert edges[edges[:, 0] == 1, 1].max() == pytest.approx(spread.high)
    plots.band(bare, x, values[:1], "BN")
    assert len(bare.lines) == 1
    assert not bare.collections


def sizes(seeds=5, **more):
    """A comparison of two arms over batch sizes, each with the better of two rates."""
    labels = {
        "arm": ["no BN", "BN"],
        "rate": [0.1, 1.0],
        "seed": range(seeds),
        "part": ["validation", "test"],
        "batch_size": [2, 8, 32],
        **more,
    }
    shape = [len(values) for values in labels.values()]
    scores = np.random.default_rng(0).random(shape)
    record = xr.Dataset({"accuracy": (tuple(labels), scores)}, labels)
    return evidence.Comparison(record, "accuracy", ["rate"], overlap=0.4)


@pytest.mark.parametrize("seeds", [1, 5])
def test_arms_are_drawn_over_a_setting(seeds):
    compared = sizes(seeds)
    _, ax = plt.subplots()
    plots.by_setting(ax, compared, "batch_size", ["BN", "no BN"])
    assert [line.get_label() for line in ax.lines] == ["BN", "no BN"]
    for line in ax.lines:
        means = compared.values(line.get_label()).mean("seed")
        np.testing.assert_allclose(line.get_ydata(), means)
        assert line.get_xdata().tolist() == [2, 8, 32]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "8", "32"]
    assert len(ax.collections) == (2 if seeds > 1 else 0)


def test_arms_are_refused_over_a_setting_that_is_not_the_only_one():
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"expected scores by seed and batch_size, got .*passes"):
        plots.by_setting(ax, sizes(passes=[3, 30]), "batch_size")
    with pytest.raises(KeyError, match="layer norm: expected one of the arms"):
        plots.by_setting(ax, sizes(), "batch_size", ["layer norm"])
    assert not ax.lines


@pytest.mark.parametrize("seeds", [1, 5])
def test_arms_are_drawn_while_they_train_at_the_settings_they_chose(seeds):
    compared = sizes(seeds, step=[0, 10])
    ends = evidence.Comparison(
        compared.record, "accuracy", ["rate"], overlap=0.4, batch_size=8, step=10
    )
    curves = compared.record["accuracy"].sel(part="test", batch_size=8)
    _, ax = plt.subplots()
    plots.over_steps(ax, ends, curves, ["BN", "no BN"])
    assert len(ax.lines) == 2
    assert len(ax.collections) == (2 if seeds > 1 else 0)
    for line, arm in zip(ax.lines, ["BN", "no BN"], strict=True):
        assert line.get_label() == f"{arm}, rate {ends.chosen(arm)['rate']['value']:g}"
        assert line.get_xdata().tolist() == [0, 10]
        assert line.get_ydata()[-1] == pytest.approx(float(ends.values(arm).mean()))


def test_curves_are_refused_over_more_than_steps():
    compared = sizes(step=[0, 10])
    ends = evidence.Comparison(
        compared.record, "accuracy", ["rate"], overlap=0, batch_size=8, step=10
    )
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"expected curves by seed and step, got .*batch_size"):
        plots.over_steps(ax, ends, compared.record["accuracy"].sel(part="test"))
    with pytest.raises(KeyError, match="layer norm: expected one of the arms"):
        plots.over_steps(ax, ends, compared.record["accuracy"], ["layer norm"])
    assert not ax.lines


def test_intervals_stand_in_the_rows_of_their_names():
    ax = plt.figure().add_subplot()
    found = {"b": evidence.paired_ratio([2, 2.2], [1, 1]), "a": evidence.paired_ratio([3], [1])}
    plots.in_rows(ax, found, ["a", "b", "c"], color=plots.INK, shift=0.1)
    drawn, _, (bars,) = ax.containers[0].lines
    np.testing.assert_allclose(drawn.get_xdata(), [found["b"].mean, 3])
    assert drawn.get_ydata().tolist() == [1.1, 0.1]
    (low, high), one_run = (segment[:, 0] for segment in bars.get_segments())
    np.testing.assert_allclose([low, high], [found["b"].low, found["b"].high])
    np.testing.assert_allclose(one_run, [3, 3])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    top, bottom = ax.transData.transform([(1, 0), (1, 2)])[:, 1]
    assert top > bottom
    with pytest.raises(ValueError, match="'d' is not in list"):
        plots.in_rows(ax, {"d": found["a"]}, ["a"], color=plots.INK)


def test_a_neuron_shows_what_the_sigmoid_makes_of_each_value():
    z = np.array([-40.0, 0.0, 2.0])
    plots.neuron({"no BN": z, "BN": z / 10})
    curve, below, seen = plt.gcf().axes
    on_curve, _ = (dots.get_offsets().data for dots in curve.collections)
    strip, narrow = (dots.get_offsets().data for dots in below.collections)
    np.testing.assert_allclose(on_curve[:, 1], [0, 0.5, 1 / (1 + np.exp(-2))], atol=1e-12)
    assert strip[:, 0].tolist() == z.tolist()
    assert len(set(strip[:, 1])) == 1
    assert narrow[0, 1] != strip[0, 1]
    assert [text.get_text() for text in below.get_yticklabels()] == ["no BN", "BN"]
    np.testing.assert_array_equal(seen.collections[0].get_offsets().data[:, 1], on_curve[:, 1])
    assert curve.get_xlim() == below.get_xlim() == (-41, 41)
    with pytest.raises(ValueError, match=r"BN: expected one neuron's values, got shape \(3, 1\)"):
        plots.neuron({"BN": z[:, None]})


@pytest.mark.parametrize("shape", [(3,), (5, 4), (2, 5, 3)])
def test_band_refuses_values_that_are_not_runs_by_points(shape):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"shape \(runs, 3\), .*got shape"):
        plots.band(ax, np.arange(3), np.zeros(shape), "BN")
    assert not ax.lines


def test_an_unknown_arm_is_refused():
    with pytest.raises(KeyError, match=r"expected an arm, one of BN, .*got 'bn'"):
        plots.arm_style("bn")


def test_finish_labels_the_outer_axes_and_names_the_lines_of_one():
    _, axes = plt.subplots(1, 2)
    for ax in axes:
        ax.plot([0, 1], label="line")
    assert plots.finish(axes, x="steps", y="accuracy") is None
    assert [ax.get_xlabel() for ax in axes] == ["steps", "steps"]
    assert [ax.get_ylabel() for ax in axes] == ["accuracy", ""]
    assert [[text.get_text() for text in ax.texts] for ax in axes] == [["line"], []]


def boxes(ax):
    ax.figure.draw_without_rendering()
    return [text.get_window_extent() for text in ax.texts]


@pytest.mark.parametrize("seed", range(5))
def test_names_stand_beside_their_lines_and_on_nothing(seed):
    rng = np.random.default_rng(seed)
    _, ax = plt.subplots()
    x = np.linspace(1, 100, 30)
    for arm in ["BN", "no BN", "scaler"]:
        runs = rng.normal() * np.log(x) + rng.normal(size=(5, 1))
        plots.band(ax, x, runs, arm, marker="o")
    ax.errorbar([50, 80], [0, 0.5], yerr=0.5, fmt="D", color=plots.INK, label="run here")
    plots.finish(ax, x="steps")
    named = boxes(ax)
    assert [text.get_text() for text in ax.texts] == ["BN", "no BN", "scaler", "run here"]
    colors = [text.get_color() for text in ax.texts]
    assert colors == [plots.ARMS[arm]["color"] for arm in ["BN", "no BN", "scaler"]] + [plots.INK]
    frame = ax.get_window_extent()
    for box in named:
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
        for line in ax.lines:
            path = line.get_transform().transform_path(line.get_path())
            if line.get_linestyle() != "None":
                assert not path.intersects_bbox(box, filled=False)
            assert not any(box.contains(*corner) for corner in path.vertices)
    for one, other in itertools.combinations(named, 2):
        assert not one.overlaps(other)


def test_names_keep_off_bands_and_the_grid_where_there_is_room():
    _, ax = plt.subplots()
    runs = 0.003 * np.array([[-1.0], [0.0], [1.0]]) + np.zeros(10)
    plots.band(ax, np.arange(10.0), runs, "BN")
    ax.set(ylim=(-0.1, 0.1), yticks=[-0.03, 0, 0.03], xticks=[0, 9])
    plots.finish(ax)
    (box,) = boxes(ax)
    edges = ax.transData.transform(ax.collections[0].get_paths()[0].vertices)[:, 1]
    assert box.y0 >= edges.max() or box.y1 <= edges.min()
    for tick in ax.get_yticks():
        assert not box.y0 < ax.transData.transform((0, tick))[1] < box.y1


def test_a_halo_has_the_color_of_the_ground_on_a_page_too():
    figure, ax = plt.subplots()
    ax.plot([0, 1], label="line")
    plots.finish(ax)
    file = io.StringIO()
    figure.savefig(file, format="svg")
    assert plots.without_ground(file.getvalue()).count(f"stroke: {plots.GROUND}") == 1


def test_names_keep_their_places_at_any_resolution():
    places = []
    for dpi in (72, 200):
        _, ax = plt.subplots(dpi=dpi)
        ax.plot([0, 1, 0], label="up and down")
        plots.finish(ax, x="steps")
        places.append(ax.texts[0].get_position())
    np.testing.assert_allclose(*places, atol=0.02)


@pytest.mark.parametrize("lines", [5, 2])
def test_a_legend_names_more_lines_than_four_and_those_without_a_place(lines):
    _, ax = plt.subplots()
    for place in range(lines):
        ax.plot([0, 1], [place, place], label=f"line {place}" if lines > 2 else "long " * 20)
    plots.finish(ax)
    assert len(ax.get_legend().get_texts()) == lines
    assert not ax.texts


def test_blocks_hold_their_cells():
    _, ax = plt.subplots()
    plots.blocks(ax, np.array([[0, 0, 1], [2, 2, 1]]), numbers=True)
    where = [patch.get_bbox().extents.round().tolist() for patch in ax.patches]
    assert where == [[0, 0, 2, 1], [2, 0, 3, 2], [0, 1, 2, 2]]
    assert [text.get_text() for text in ax.texts] == ["1", "1", "2", "3", "3", "2"]


@pytest.mark.parametrize(
    "draw",
    [
        plots.layer_diagram,
        plots.keras_layers,
        plots.four_numbers,
        plots.computation_graph,
        plots.batches_of_three,
        plots.norm_family,
    ],
)
def test_drawings_keep_their_text_inside_and_repeat_to_the_byte(draw):
    files = []
    for _ in range(2):
        draw()
        fig = plt.gcf()
        file = io.BytesIO()
        fig.savefig(file, format="svg", metadata={"Date": None})
        files.append(file.getvalue())
        fig.draw_without_rendering()
        frame = fig.bbox
        for text in fig.findobj(mpl.text.Text):
            if text.get_text():
                box = text.get_window_extent()
                assert frame.x0 <= box.x0
                assert box.x1 <= frame.x1
        plt.close(fig)
    assert files[0] == files[1]
