"""Studies and their records: complete, whole, made with these settings, and computed again."""

import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import joblib
import numpy as np
import pytest
import xarray as xr

from bnutils import data, network, norm, studies
from bnutils.evidence import (
    Finding,
    Hypothesis,
    Interval,
    Study,
    Tolerance,
    expected_half_width,
    provenance,
)
from bnutils.evidence import study as study_module
from bnutils.evidence.record import RecordError, digest, load, read, write
from bnutils.studies import (
    chapter_01,
    chapter_02,
    chapter_03,
    chapter_05,
    chapter_06,
    chapter_09,
    chapter_13,
)
from bnutils.studies.__main__ import main as studies_main

NAMES = studies.names()


# ---------------------------------------------------------------------- the records of the book


@pytest.mark.parametrize("name", NAMES)
def test_a_block_computed_again_is_as_recorded(name):
    assert studies.get(name).check(studies.load(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_that_of_its_study_whole_and_finite_in_size(name):
    study, record = studies.get(name), studies.load(name)
    history = provenance(record)
    assert history["fingerprint"] == study.fingerprint, f"run `make studies NAME={name}`"
    assert dict(record.sizes).items() >= {k: len(v) for k, v in study.dims.items()}.items()
    assert set(record.data_vars) == set(study.tolerances)
    assert (studies.RECORDS / f"{name}.nc").stat().st_size <= 1.5e6


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_computed_with_in_double_precision(name):
    types = {str(values.dtype) for values in studies.load(name).data_vars.values()}
    assert "float32" not in types


def test_single_precision_stands_for_decimals():
    decimals = np.array([0.9, 0.905, 1 / 3, 360 / 400, 1e-12, -2.5e7, 0.0, 1e30, np.inf, np.nan])
    single = xr.DataArray(decimals.astype(np.float32))
    double = studies._double(single).values
    np.testing.assert_allclose(double, single, rtol=5e-7)
    np.testing.assert_array_equal(double[[0, 1, 3, 5, 6, 8, 9]], decimals[[0, 1, 3, 5, 6, 8, 9]])
    assert (double[:2] >= decimals[:2]).all()


def test_every_record_has_a_study_and_together_they_are_small():
    files = {path.stem: path.stat().st_size for path in studies.RECORDS.glob("*")}
    assert set(files) == set(NAMES)
    assert sum(files.values()) <= 25e6


@pytest.mark.parametrize("name", NAMES)
def test_a_record_tells_how_it_came_about(name):
    history = provenance(studies.load(name))
    assert history["versions"]["numpy"]
    assert history["cpu_seconds"] > 0
    assert history["processor"]
    assert history["date"] >= "2026-11-25"


@pytest.mark.parametrize("name", NAMES)
def test_margins_were_stated_before_the_record_and_have_not_moved(name):
    history = provenance(studies.load(name))
    assert not history["commit"].endswith("+"), "computed from code that no commit holds"
    stated = {each.name: each.digest for each in studies.get(name).hypotheses}
    assert history["margins"] == stated


def test_no_two_studies_or_claims_share_a_name():
    chapters = studies._chapters()
    assert len(NAMES) == sum(len(chapter.STUDIES) for chapter in chapters)
    assert len(studies.claims()) == sum(len(chapter.CLAIMS) for chapter in chapters)


def test_claims_are_tested_by_studies_that_name_them():
    named = {each.name for name in NAMES for each in studies.get(name).hypotheses}
    assert named == set(studies.claims())


@pytest.mark.parametrize("name", studies.claims())
def test_a_claim_is_judged_from_the_records_that_hold_its_margin(name):
    claim = studies.claim(name)
    assert claim.name == name
    assert claim.digest == studies.hypothesis(name).digest
    assert any(name in provenance(studies.load(record))["margins"] for record in claim.record)


@pytest.mark.parametrize("name", NAMES)
def test_the_data_can_carry_the_margins_that_were_stated(name):
    study = studies.get(name)
    # test images, and the share of them that these networks get right
    parts = {
        500 / 4000: (500, 0.93),
        400 / 1097: (400, 0.97),
        200 / 800: (64, 0.9),
        0: (2000, 0.95),
    }
    for each in study.hypotheses:
        if each.kind == "measured" and "accuracy" in each.label:
            images, share = parts[study.overlap]
            sd = (2 * share * (1 - share) / images) ** 0.5
            width = expected_half_width(sd, len(study.dims["seed"]), overlap=study.overlap)
            assert width < each.margin, each.name


def test_unknown_names_are_told_the_known_ones():
    for ask in (studies.get, studies.load, studies.claim):
        with pytest.raises(KeyError, match=r"xyzzy: expected one of \['"):
            ask("xyzzy")


@pytest.mark.parametrize(
    ("ask", "name", "message"),
    [
        (studies.load, "gradient", "name of a study; did you mean 'gradients'"),
        (studies.claim, "bias-dead", "name of a claim; did you mean 'bias-before-bn-dead'"),
        (
            studies.load,
            "bias-before-bn-dead",
            r"a claim; use studies\.claim\('bias-before-bn-dead'",
        ),
        (studies.claim, "bias-before-bn", r"of a study; use studies\.load\('bias-before-bn'"),
    ],
)
def test_a_name_that_is_nearly_right_is_told_the_right_one(ask, name, message):
    with pytest.raises(KeyError, match=message):
        ask(name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rates": 0.1}, r"learning_rate: expected a sequence of values, such as \[0.1\]"),
        ({"rates": ["0.1"]}, "learning_rate: expected a number, got '0.1'"),
        ({"seeds": []}, "seed: expected one value or more"),
        ({"seeds": [-1]}, "seed: expected a number not below 0"),
        ({"steps": "150"}, "steps: expected a number, got '150'"),
        ({"steps": -1}, "steps: expected a number above 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_the_layer_is_trained(changed, message):
    settings = {"rates": [0.1], "seeds": [0], "steps": 5, **changed}
    with pytest.raises(ValueError, match=message):
        chapter_03.sweep(lambda *settings: pytest.fail("trained"), None, **settings)


@pytest.mark.parametrize(
    ("epsilons", "seeds", "message"),
    [(0.1, [0], "such as"), ([], [0], "such as"), (["0"], [0], "a number"), ([0.1], 0, "such as")],
)
def test_identities_refuse_what_is_no_list_of_epsilons(epsilons, seeds, message):
    with pytest.raises(ValueError, match=message):
        chapter_02.identities(epsilons, seeds)


@pytest.mark.parametrize("record", ["gradients", "own-layer", 3])
def test_usable_rates_name_the_records_that_have_them(record):
    with pytest.raises(ValueError, match="own-layer-rates or own-layer-rates-conv"):
        chapter_03.usable_table(record)


# ------------------------------------------------------------------------------ how a study runs


def block(settings):
    draws = np.random.default_rng(settings["seed"]).normal(size=(len(settings["size"]), 3))
    return xr.Dataset(
        {"score": (("size", "step"), draws * settings["factor"])},
        {"size": list(settings["size"]), "step": [10, 20, 30]},
    )


@pytest.fixture
def study():
    return Study(
        name="tiny",
        question="What is it?",
        block=block,
        dims={"arm": ["a", "b"], "size": [1, 5], "seed": range(4)},
        together=["size"],
        fixed={"factor": 2.0},
        tolerances={"score": Tolerance(1e-12)},
    )


@pytest.fixture
def record(study):
    return study.run(workers=1)


def test_a_record_has_an_axis_for_each_setting(study, record):
    assert dict(record.sizes) == {"arm": 2, "size": 2, "seed": 4, "step": 3}
    for i, settings in enumerate(study.blocks()):
        here = {"arm": settings["arm"], "seed": settings["seed"]}
        np.testing.assert_array_equal(record["score"].sel(here), block(settings)["score"], str(i))
    history = provenance(record)
    assert history["settings"] == {
        "dims": {"arm": ["a", "b"], "size": [1, 5], "seed": [0, 1, 2, 3]},
        "fixed": {"factor": 2.0},
        "revision": 1,
    }
    assert (history["study"], history["engine"]) == ("tiny", network.REVISION)
    assert isinstance(history["cpu_seconds"], float)
    assert history["overlap"] == 0
    assert history["versions"]["python"] == platform.python_version()
    assert history["versions"]["numpy"] == np.__version__
    assert set(history) == {
        *("study", "fingerprint", "settings", "engine", "versions", "processor", "date"),
        *("cpu_seconds", "commit", "margins", "overlap", "changes", "digest"),
    }
    assert date.fromisoformat(history["date"]) >= date(2026, 1, 1)


KIRITIMATI = timezone(timedelta(hours=14))


def test_a_record_is_dated_by_universal_time(study, monkeypatch):
    class Clock:
        @staticmethod
        def now(zone):
            return datetime(2026, 1, 2, 0, 30, tzinfo=timezone(timedelta(hours=14))).astimezone(
                zone
            )

    monkeypatch.setattr(study_module, "datetime", Clock)
    assert provenance(study.run(workers=1))["date"] == "2026-01-01"


def test_a_run_shows_how_many_blocks_are_done_if_asked_to(study, monkeypatch, capsys):
    monkeypatch.setattr("bnutils.progress.DELAY", 0)
    study.run(workers=1, progress=False)
    assert capsys.readouterr().err == ""
    study.run(workers=1, progress=True)
    shown = capsys.readouterr().err
    assert "tiny" in shown
    assert "block/s" in shown or "s/block" in shown


@pytest.mark.parametrize("workers", [1, 2])
def test_a_block_is_kept_as_soon_as_it_is_done(study, tmp_path, workers):
    def last_fails(settings):
        if (settings["arm"], settings["seed"]) == ("b", 3):
            deadline = time.monotonic() + 60
            while len(list(tmp_path.rglob("*.nc"))) < 7 and time.monotonic() < deadline:
                time.sleep(0.01)
            raise ArithmeticError("the last one")
        return block(settings)

    failing = replace(study, block=last_fails)
    with (
        joblib.parallel_config(backend="threading"),
        pytest.raises(ArithmeticError, match="the last one"),
    ):
        failing.run(workers=workers, store=tmp_path)
    assert len(list(tmp_path.rglob("*.nc"))) == 7


def test_processor_seconds_are_those_of_a_block_and_of_what_it_started(study):
    burn = "import time\nwhile time.process_time() < 0.3: pass"

    def busy(settings):
        subprocess.run([sys.executable, "-c", burn], check=True)
        return block(settings)

    before = time.process_time()
    _, seconds = study_module._compute(busy, study.blocks()[0])
    assert seconds >= 0.3
    _, idle = study_module._compute(block, study.blocks()[0])
    assert 0 <= idle <= time.process_time() - before


def test_workers_that_give_no_stream_give_the_same_record(study, record):
    with joblib.parallel_config(backend="multiprocessing"):
        xr.testing.assert_identical(study.run(workers=2).drop_attrs(), record.drop_attrs())


def test_settings_are_kept_as_plain_tuples(study):
    dims = replace(study, dims={**study.dims, "seed": np.arange(4)}).dims
    assert dims["seed"] == (0, 1, 2, 3)
    assert dims == study.dims


def test_changed_settings_give_the_same_kind_of_array(study, record):
    live = study.run(seed=[9], size=[5], factor=1.0, workers=1)
    assert live["score"].dims == record["score"].dims
    assert dict(live.sizes) == {"arm": 2, "size": 1, "seed": 1, "step": 3}
    assert provenance(live)["fingerprint"] != study.fingerprint


def test_a_fraction_may_be_0(study):
    assert replace(study, fixed={"share": 0.4}).with_settings(share=0.0).fixed["share"] == 0


def test_a_number_may_follow_a_text(study):
    assert study.with_settings(arm=["a", "b 4", "b 0.5"]).dims["arm"] == ("a", "b 4", "b 0.5")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"sede": [1]}, KeyError, "sede: expected a setting of 'tiny'.*did you mean 'seed'"),
        ({"seed": 3}, ValueError, r"seed: expected a sequence of values, such as \[3\], got 3"),
        ({"arm": "a"}, ValueError, r"such as \['a'\]"),
        ({"seed": []}, ValueError, "seed: expected one value or more"),
        ({"seed": [0.5]}, ValueError, "seed: expected a whole number, got 0.5"),
        ({"seed": [-1]}, ValueError, "seed: expected a number not below 0, got -1"),
        ({"size": ["ten"]}, ValueError, "size: expected a number, got 'ten'"),
        ({"size": [0]}, ValueError, "size: expected a number above 0, got 0"),
        ({"arm": ["c"]}, ValueError, r"arm: expected one of \['a', 'b'\], got 'c'"),
        ({"arm": [1]}, ValueError, r"arm: expected one of \['a', 'b'\], got 1"),
        ({"kind": "fine"}, ValueError, r"kind: expected one of \['plain', 'rough'\], got 'fine'"),
        ({"factor": "2"}, ValueError, "factor: expected a number, got '2'"),
        ({"workers": 0}, ValueError, "workers: expected a whole number above 0, got 0"),
        ({"workers": "x"}, ValueError, "workers: expected a whole number above 0, got 'x'"),
        ({"worker": 1}, KeyError, "did you mean 'workers'"),
        ({"factor": [2.0]}, ValueError, r"factor: expected a number, got \[2.0\]"),
        ({"factor": float("nan")}, ValueError, "factor: expected a number, got nan"),
        ({"seed": [1, 1]}, ValueError, "seed: expected one value or more, each once"),
        ({"xyzzy": [1]}, KeyError, r"xyzzy: expected a setting of 'tiny', \[.*'kind'\]\"$"),
    ],
)
def test_settings_are_checked_before_anything_runs(study, changed, error, message):
    kinds = {"fixed": {**study.fixed, "kind": "plain"}, "texts": {"kind": ["rough"]}}
    with pytest.raises(error, match=message):
        replace(study, block=None, **kinds).run(**changed)


def test_the_fingerprint_follows_settings_revision_and_engine(study, monkeypatch):
    others = [
        study.with_settings(factor=3.0),
        study.with_settings(seed=range(5)),
        replace(study, revision=2),
        replace(study, name="other"),
    ]
    assert len({each.fingerprint for each in [study, *others]}) == 5
    assert replace(study, question="And?").fingerprint == study.fingerprint
    assert replace(study, fixed={"factor": np.float32(2)}).fingerprint == study.fingerprint
    before = study.fingerprint
    monkeypatch.setattr(network, "REVISION", network.REVISION + 1)
    assert study.fingerprint != before


def test_a_fingerprint_is_made_as_ever(study, monkeypatch):
    monkeypatch.setattr(network, "REVISION", 1)  # made otherwise, no record would be current
    assert study.fingerprint[:16] == "3d42928c31741ee7"


def test_a_study_names_what_it_cannot_take(study):
    with pytest.raises(
        KeyError, match=r"together: expected names of dims, \['arm'.*got \['steps'\]"
    ):
        replace(study, together=["steps"])
    with pytest.raises(ValueError, match="size: expected a sequence of values"):
        replace(study, dims={**study.dims, "size": 3})
    with pytest.raises(KeyError, match=r"tiny: expected a tolerance .*, not \{'other'\}"):
        replace(study, tolerances={**study.tolerances, "other": Tolerance(1.0)}).run(workers=1)
    with pytest.raises(ValueError, match=r"dims or in fixed, got both for \['seed'\]"):
        replace(study, fixed={"seed": 1})


def test_numbers_of_any_kind_are_written_and_read(tmp_path):
    numbers = xr.Dataset(
        {
            "whole": 3,
            "share": 0.25,
            "text": ("arm", ["a", "b"]),
            "counts": ("arm", np.array([1, 2], "uint8")),
            "wide": (("arm", "step"), np.arange(6.0).reshape(2, 3)),
        },
        {"arm": ["a", "b"], "step": [1, 2, 3]},
        {"provenance": "{}"},
    )
    write(numbers, tmp_path / "numbers.nc")
    found = load(tmp_path / "numbers.nc")
    assert digest(found) == digest(numbers)
    assert found["whole"] == 3
    assert found["counts"].dtype == np.uint8
    swapped = numbers.assign(wide=numbers["wide"].astype(">f8"))
    assert digest(swapped) == digest(numbers)  # on a processor of the other byte order


def test_a_record_may_hold_what_looks_like_a_seal(record, tmp_path):
    told = record.assign_attrs(note="\nsha256 " + "0" * 64)
    write(told, tmp_path / "tiny.nc")
    assert read(tmp_path / "tiny.nc").attrs["note"] == told.attrs["note"]


def test_half_of_the_runs_have_to_be_close_and_one_at_the_edge_may_end_as_it_will():
    labels = {"rate": [1, 2, 3], "step": [1, 2]}
    old = xr.DataArray([[0.1, 0.9], [0.1, 0.8], [0.1, 0.1]], labels, ("rate", "step"), "accuracy")
    flips, worse = old.copy(), old - 0.05
    flips[2, 1] = 0.9
    for tolerance in (Tolerance(typical=0.03), Tolerance(close=0.01, steps=1, typical=0.03)):
        assert list(tolerance.differences(old, old)) == []
        assert list(tolerance.differences(old, flips)) == []
        assert list(tolerance.differences(old, old.where(old != 0.9, np.nan))) == []
        said = list(tolerance.differences(old, worse))[-1]
        assert (
            said == "accuracy: expected half of the numbers up to 0.03 apart, got a median of 0.05"
        )
    assert list(Tolerance(mean=0.03).differences(old, flips))
    early = old + 0.02 * (old["step"] == 1)  # the last step that is compared singly
    (said,) = Tolerance(close=0.01, steps=1, typical=0.03).differences(old, early)
    assert said.startswith("accuracy: numbers differ by 0.01 more than")
    lost = old.where(old["rate"] == 1, np.nan)
    assert list(Tolerance(typical=0.03).differences(lost, lost)) == []
    assert "median of inf" in next(Tolerance(typical=0.03).differences(old, lost))


def test_an_infinite_number_on_record_allows_no_other():
    old = xr.DataArray([1.0, np.inf], {"step": [1, 2]}, ("step",), "loss")
    tolerance = Tolerance(close=0.1, relative=0.1)
    assert list(tolerance.differences(old, old)) == []
    assert list(tolerance.differences(old, old.where(old < 2, 7.0)))
    assert list(tolerance.differences(old.where(old < 2, 7.0), old))
    assert list(Tolerance(close=0).differences(old, old)) == []  # and without a warning


def test_small_whole_numbers_are_compared_without_wrapping_around():
    old = xr.DataArray(np.array([3, 5], "uint8"), {"step": [1, 2]}, ("step",), "count")
    assert list(Tolerance(close=1).differences(old, old + np.uint8(1))) == []
    assert list(Tolerance(close=1).differences(old + np.uint8(1), old)) == []
    yes = old > 4
    assert list(Tolerance(close=0).differences(yes, yes)) == []
    assert list(Tolerance(close=0).differences(yes, ~yes))


@pytest.mark.parametrize(
    ("found", "end"),
    [
        ({"SIMD Extensions": {"found": ["X86_V3", "X86_V4"]}}, r" \(X86_V4\)"),
        ({"SIMD Extensions": {"found": []}}, ""),
        ({"SIMD Extensions": {}}, ""),
        ({}, ""),
    ],
)
def test_a_processor_is_named_with_its_widest_instructions(monkeypatch, found, end):
    monkeypatch.setattr(np, "show_config", lambda mode: found)
    assert re.fullmatch(rf"[^()]+(\([RTM]+\)[^()]*)*{end}", study_module._processor())


def test_a_run_takes_as_many_workers_as_there_are_processors(study, record, monkeypatch):
    monkeypatch.setattr(study_module.joblib, "cpu_count", lambda: 1)
    xr.testing.assert_identical(study.run().drop_attrs(), record.drop_attrs())
    asked, whole = [], study_module.joblib.Parallel
    monkeypatch.setattr(
        study_module.joblib, "Parallel", lambda n_jobs, **k: asked.append(n_jobs) or whole(1, **k)
    )
    for processors in (3, 100):
        monkeypatch.setattr(
            study_module.joblib, "cpu_count", lambda processors=processors: processors
        )
        xr.testing.assert_identical(study.run().drop_attrs(), record.drop_attrs())
    assert asked == [3, len(study.blocks())]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_numbers_do_not_depend_on_the_workers(workers):
    gradients = studies.get("gradients")
    changed = {"seed": [0, 1], "network": ["sigmoid", "ReLU"]}
    run = gradients.run(**changed, workers=workers)
    assert digest(run) == digest(gradients.run(**changed, workers=1))


def test_a_stopped_run_goes_on_where_it_was(study, tmp_path):
    asked = []

    def stops(settings):
        asked.append(settings["seed"])
        if len(asked) == 6:
            raise KeyboardInterrupt
        return block(settings)

    halting = replace(study, block=stops)
    with pytest.raises(KeyboardInterrupt):
        halting.run(workers=1, store=tmp_path)
    whole = halting.run(workers=1, store=tmp_path)
    assert len(asked) == 6 + 8 - 5
    assert digest(whole) == digest(study.run(workers=1))


def test_a_stopped_run_with_numbers_of_numpy_goes_on_too(study, tmp_path):
    whole = replace(
        study, fixed={"factor": np.float32(2)}, dims={**study.dims, "size": np.arange(2)}
    )
    record = whole.run(workers=1, store=tmp_path)
    again = replace(whole, block=None).run(workers=1, store=tmp_path)  # nothing is left to compute
    xr.testing.assert_identical(again.drop_attrs(), record.drop_attrs())


def test_half_a_block_is_never_taken_for_a_whole_one(study, record, tmp_path):
    study.run(workers=1, store=tmp_path)
    blocks = sorted(tmp_path.rglob("*.nc"))
    assert len(blocks) == 8
    blocks[0].write_bytes(blocks[0].read_bytes()[:-100])
    blocks[1].write_bytes(b"")
    (blocks[2].parent / ".bnutils-killed").mkdir()
    blocks[2].rename(blocks[2].parent / ".bnutils-killed" / blocks[2].name)
    middle = bytearray(blocks[3].read_bytes())
    middle[len(middle) // 2] ^= 8
    blocks[3].write_bytes(middle)
    assert digest(study.run(workers=1, store=tmp_path)) == digest(record)


def test_another_setting_does_not_find_the_blocks_of_this_one(study, tmp_path):
    study.run(workers=1, store=tmp_path)
    other = study.run(workers=1, store=tmp_path, factor=5.0)
    assert digest(other) == digest(study.run(workers=1, factor=5.0))


def test_a_block_of_other_settings_is_not_taken(study, tmp_path):
    study.run(workers=1, store=tmp_path)
    turned = replace(study, dims=dict(reversed(study.dims.items())))
    assert turned.fingerprint == study.fingerprint  # the same settings, in another order
    run = turned.run(workers=1, store=tmp_path)
    xr.testing.assert_equal(run.transpose("arm", "size", "seed", "step"), study.run(workers=1))


def test_a_loaded_record_can_be_changed_without_harm():
    studies.load("gradients")["kernel"].values[:] = 0
    assert studies.load("gradients")["kernel"].any()


def test_a_killed_run_leaves_whole_blocks_and_is_resumed(tmp_path):
    command = [sys.executable, "-m", "bnutils.studies.__main__", "--help"]
    assert subprocess.run(command, capture_output=True, check=True).stdout
    code = (
        "import sys; from pathlib import Path; from bnutils import studies;"
        "studies.get('saturation').run(seed=range(200), workers=1, store=Path(sys.argv[1]))"
    )

    def blocks():
        # What is being written lies in a hidden folder, until it is whole.
        return [p for p in tmp_path.rglob("*.nc") if not p.parent.name.startswith(".")]

    victim = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        while len(blocks()) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        victim.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        victim.wait()
    assert 5 <= len(blocks()) < 400
    for path in blocks():
        assert load(path).sizes


# ------------------------------------------------------------------------- what a check notices


def test_a_changed_number_is_noticed_when_the_record_is_read(record, tmp_path):
    path = tmp_path / "tiny.nc"
    write(record, path)
    assert digest(read(path)) == digest(record)
    changed = record.copy(deep=True)
    changed["score"][0, 0, 0, 0] += 1e-9
    write(changed, path)
    with pytest.raises(RecordError, match="changed after they were measured"):
        read(path)


COMMAND = "python -m bnutils.studies tiny"
AGAIN = f"compute it again: {COMMAND}"


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "other", "missing", "bare"])
def test_a_damaged_file_is_no_record(record, tmp_path, damage):
    path = tmp_path / "tiny.nc"
    write(record, path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a record")
    elif damage == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    elif damage == "missing":
        path.unlink()
    elif damage == "bare":  # what a program leaves that edits netCDF files
        path.write_bytes(whole.rpartition(b"\nsha256 ")[0])
    else:
        xr.Dataset({"x": 1}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises((RecordError, FileNotFoundError)) as error:
        read(path)
    assert str(error.value).endswith(COMMAND if damage == "missing" else AGAIN)


def test_a_record_with_any_byte_changed_or_missing_is_told_at_once(record, tmp_path):
    path = tmp_path / "tiny.nc"
    write(record, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = rng.choice(len(whole) - 72, 60, replace=False)  # behind them stands the seal itself
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        for each in (damaged, whole[:place]):
            path.write_bytes(each)
            with pytest.raises(RecordError, match=AGAIN):
                read(path)


@pytest.mark.parametrize("history", ["[]", "{", '"text"', "{}", '{"study": "tiny", "digest": 1}'])
def test_a_record_whose_history_is_damaged_is_none(record, tmp_path, history):
    write(record.assign_attrs(provenance=history), tmp_path / "tiny.nc")
    lost = "commit, fingerprint, margins" if "digest" in history else "provenance"
    with pytest.raises(RecordError, match=f"got one without {lost}; {AGAIN}"):
        read(tmp_path / "tiny.nc")


def test_a_record_of_another_study_is_refused_and_computed_again(
    study, record, tmp_path, monkeypatch, capsys
):
    other = replace(study, name="other", fixed={"factor": 3.0})
    monkeypatch.setattr(studies, "RECORDS", tmp_path)
    monkeypatch.setattr(studies, "_studies", lambda: {"tiny": study, "other": other})
    write(record, tmp_path / "other.nc")
    with pytest.raises(RecordError, match=r"record of 'other' in other\.nc, got that of 'tiny'"):
        studies.load("other")
    (tmp_path / "tiny.nc").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    assert studies_main(["--workers", "1", "--store", str(tmp_path / "store")]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "tiny",
        "other",
    ]
    assert digest(studies.load("other")) == digest(other.run(workers=1))
    assert studies_main([]) == 0
    assert capsys.readouterr().out == ""  # both are current now


def test_writing_leaves_nothing_half_done(record, tmp_path, monkeypatch):
    path = tmp_path / "tiny.nc"
    write(record, path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(record * 2, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.nc"]


def test_a_check_refuses_the_record_of_other_settings(study, record):
    with pytest.raises(ValueError, match="expected a record of 'tiny' with the fingerprint"):
        study.with_settings(factor=3.0).check(record)


def test_a_check_tells_of_each_variable(study):
    def two(settings, off=0.0):
        score = block(settings)["score"] + off
        return xr.Dataset({"score": score, "twice": 2 * score})

    tolerances = dict.fromkeys(["score", "twice"], Tolerance(1e-12))
    study = replace(study, block=two, tolerances=tolerances)
    record = study.run(workers=1)
    assert study.check(record) == []
    said = replace(study, block=lambda settings: two(settings, 1.0)).check(record)
    assert [re.search(r"(score|twice): numbers differ", each)[1] for each in said] == [
        "score",
        "twice",
    ]


def test_a_check_notices_another_computation(study, record):
    assert study.check(record) == []
    wrong = replace(study, block=lambda s: block(s) * 1.000001)
    found = wrong.check(record, block=3)
    assert len(found) == 1
    assert "'arm': 'a', 'seed': 3" in found[0]
    assert "score: numbers differ" in found[0]


def test_a_sign_in_the_engine_is_noticed(monkeypatch):
    small = studies.get("alike").with_settings(
        seed=[0], arm=["BN"], classes=[10], learning_rate=[0.1], updates=6
    )
    record = small.run(workers=1)
    assert small.check(record) == []
    right = network.Dense.backward

    def wrong(self, dy, **options):
        dx = right(self, dy, **options)
        return None if dx is None else -dx

    monkeypatch.setattr(network.Dense, "backward", wrong)
    assert small.check(record)


@pytest.mark.parametrize("kind", [Study, Tolerance, Hypothesis, Finding, Interval])
def test_what_was_said_or_measured_cannot_be_changed_by_accident(kind):
    assert kind.__dataclass_params__.frozen


def test_tolerances_compare_starts_singly_and_ends_in_the_mean():
    old = xr.DataArray([[1.0, 2.0, np.nan]], {"step": [1, 2, 3]}, ("seed", "step"), "loss")
    tolerance = Tolerance(close=0.01, steps=2, mean=0.5)
    assert list(tolerance.differences(old, old)) == []
    assert list(tolerance.differences(old, old + 0.1))
    late = xr.DataArray([[0.0, 1.0, 1.0]], {"step": [1, 5, 6]}, ("seed", "step"), "loss")
    assert list(tolerance.differences(late, late + np.array([0, 0.9, 0]))) == []
    assert list(tolerance.differences(late, late + np.array([0, 0.9, 0.9])))
    said = next(tolerance.differences(late, late.where(late["step"] > 1)))  # NaN where none was
    assert said.startswith("loss: numbers differ by inf more than")
    assert list(Tolerance(mean=0.5).differences(0 * late, 0 * late + 0.5)) == []
    assert list(Tolerance(relative=0.1, close=0).differences(late, late * 1.2))
    assert list(Tolerance(relative=0.1, close=0).differences(late, late * 1.05)) == []


def test_a_record_names_the_commit_and_marks_code_that_differs(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.setattr(study_module, "__file__", str(tmp_path / "evidence" / "study.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert study_module._commit() is None
    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "One")
    assert study_module._commit() == git("rev-parse", "HEAD")[:12]
    (tmp_path / "code.py").write_text("2")
    assert study_module._commit() == git("rev-parse", "HEAD")[:12] + "+"


def test_a_record_without_history_is_none():
    with pytest.raises(KeyError, match="expected a record"):
        provenance(xr.Dataset())


def test_a_dask_cluster_gives_the_same_record(tmp_path):
    distributed = pytest.importorskip("distributed")
    gradients = studies.get("gradients")
    changed = {"seed": [0], "network": ["sigmoid"]}
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=":0",
            local_directory=tmp_path,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        run = gradients.run(**changed, client=client)
    assert json.loads(run.attrs["provenance"])["digest"] == digest(
        gradients.run(**changed, workers=1)
    )


def test_the_network_of_the_race_starts_from_the_same_weights_in_both_arms():
    plain, with_bn = (chapter_01.sigmoid_network(arm, 10.0, seed=1) for arm in chapter_01.ARMS)
    kernels = [net.layers[0].kernel for net in (plain, with_bn)]
    np.testing.assert_array_equal(*kernels)
    assert kernels[0].std() == pytest.approx(10 / 28, rel=0.02)
    assert (len(plain.batch_norms), len(with_bn.batch_norms)) == (0, 3)
    with pytest.raises(ValueError, match=r"expected an arm, one of no BN, BN, got 'bn'"):
        chapter_01.sigmoid_network("bn")


def test_a_table_of_steps_has_the_ratio_first():
    rows = {"80%": chapter_01.race_to(0.8), "90%": chapter_01.race_to(0.9)}
    table = chapter_01.steps_table(rows)
    assert table.columns.tolist() == ["no BN ÷ BN", "BN", "no BN"]
    assert table.loc["80%", "BN"] == f"{rows['80%'].mean('BN').mean:.0f}"
    assert table.loc["90%", "no BN ÷ BN"] == f"{rows['90%'].ratio('no BN', 'BN'):.1f}"
    assert (table.loc["80%"] != table.loc["90%"]).all()


def test_a_table_of_layers_has_what_the_images_have_in_common_and_how_they_differ():
    images = np.random.default_rng(0).standard_normal((60, 784))
    table = chapter_01.layer_table(10.0, images)
    assert table.index.tolist() == [1, 2, 3]
    assert float(table.loc[1, "sd"]) == pytest.approx(10, rel=0.05)
    assert float(table.loc[1, "mean off by"]) < 3
    # As often is |z| above ln 19, for a normal z of standard deviation 10.
    assert table.loc[1, "saturated"] in {"76%", "77%", "78%"}


def test_momenta_kept_beside_one_training_are_those_of_layers():
    x, y = chapter_09.tasks(0)[1].train
    few = {"loss": chapter_09.LOSS, "steps": 5, "batch_size": 20}
    net = chapter_09.build(0, 2, network.BatchNorm(momentum=0.0))
    averages = chapter_09.Averages(net)
    adam = network.Adam(0.01)
    network.fit(net, x, y, optimizer=adam, after_step=lambda *_: averages.update(), **few)
    for momentum in chapter_09.MOMENTA:
        layered = chapter_09.build(0, 2, network.BatchNorm(momentum=momentum))
        network.fit(layered, x, y, optimizer=network.Adam(0.01), **few)
        averages.use(momentum, net)
        np.testing.assert_allclose(net(x), layered(x), rtol=1e-4, atol=1e-5)


def test_new_classes_are_others_than_the_old_ones():
    old, new = chapter_09.tasks(3)
    assert [len(y) for _, y in old] == [2000, 250, 250]
    assert [len(y) for _, y in new] == [60, 250, 250]
    for task in (old, new):
        for _, y in task:
            assert np.bincount(y).tolist() == [len(y) / 5] * 5
    images = {x.tobytes() for task in (old, new) for part in task for x in part[0]}
    assert len(images) == 2000 + 60 + 4 * 250


def test_a_layers_jacobian_agrees_with_finite_differences():
    rng, kernel = np.random.default_rng(0), np.random.default_rng(1).normal(size=(4, 3))
    a, epsilon = rng.normal(size=(5, 4)), 1e-5

    def layer(a):
        return norm.standardize(np.tanh(a) @ kernel, 0, epsilon)[0]

    def numeric(at):
        nudge = np.zeros_like(a)
        nudge.flat[at] = 1e-6
        return (layer(a + nudge) - layer(a - nudge)).ravel() / 2e-6

    sd = np.sqrt((np.tanh(a) @ kernel).var(axis=0) + epsilon)
    exact = chapter_13.layer_jacobian(kernel, 1 - np.tanh(a) ** 2, layer(a), sd)
    np.testing.assert_allclose(exact, np.stack([numeric(i) for i in range(a.size)], 1), atol=1e-7)


def test_noise_changes_training_alone_and_is_drawn_for_each_example_anew():
    noise, x = chapter_13.Noise(0.5, [3, 3, 4], layer=1), np.ones((3, 1000, 2))
    assert noise(x) is x
    first, second = noise(x, training=True), noise(x, training=True)
    np.testing.assert_array_equal(first[0], first[1])  # runs of one seed
    assert (np.abs(first.mean(axis=1) - second.mean(axis=1)) > 0.01).all()
    assert np.ptp(first, axis=1).min() > 0.2
    middle = noise.scale + noise.shift
    np.testing.assert_allclose(second.mean(axis=1), middle[:, 0], atol=0.02)
    mean = noise.backward(x).mean(axis=1)
    np.testing.assert_allclose(mean, noise.scale[:, 0], atol=0.02)


def test_a_slow_drift_starts_at_nothing_glides_and_treats_all_examples_alike():
    drift, x = chapter_13.Drift(1.0, [3, 3, 4], layer=1), np.ones((3, 5, 2))
    np.testing.assert_array_equal(drift(x), x)
    outputs = np.array([drift(x, training=True) for _ in range(50)])
    np.testing.assert_array_equal(drift(x), outputs[-1])  # at test time, too
    np.testing.assert_array_equal(outputs[:, 0], outputs[:, 1])  # runs of one seed
    assert np.ptp(outputs, axis=2).max() == 0
    steps = np.diff(outputs[:, :, 0], axis=0, prepend=1.0)
    np.testing.assert_allclose(steps[:20], np.broadcast_to(steps[:1], (20, 3, 2)), atol=1e-12)
    assert (np.abs(steps[20] - steps[19]) > 1e-3).all()
    np.testing.assert_array_equal(drift.backward(x), x * drift.scale)


def test_the_rivals_of_gamma_and_beta_are_two_weights_of_each_channel():
    for kind in ("ReLU", "convolutional"):
        net = chapter_13.build(kind, network.BatchNorm(), [0])
        picked = chapter_13.trained_columns(net, chapter_13.RANDOM, 0)
        assert picked.sum() == chapter_13.trained_columns(net, "gamma and beta", 0).sum()
        for name, layer in list(zip(net.names, net.layers, strict=True))[:-1]:
            if hasattr(layer, "kernel"):
                two = picked[net.columns[f"{name}/kernel"]].reshape(-1, layer.kernel.shape[-1])
                assert (two.sum(axis=0) == 2).all()


def test_steps_to_a_level_are_read_between_records():
    record = studies.load("noise").isel(seed=[0], arm=[0])
    curve = xr.zeros_like(record["accuracy"]) + (record["step"] >= 2) * 0.6
    reached = chapter_13.race_to(record.assign(accuracy=curve), 0.3).scores
    assert (reached == 1.5).all()
    assert np.isinf(chapter_13.race_to(record.assign(accuracy=curve), 0.7).scores).all()


def test_averages_kept_beside_one_training_are_those_of_training_with_their_momentum():
    few = {"seed": [1], "batch_size": [8], "learning_rate": [0.01], "times": [7]}
    seen = studies.get("moving-statistics").run(**few, momenta=[0.9], workers=1)
    parts = data.digits(split=1)
    norm = network.BatchNorm(momentum=0.9)
    net = network.mlp([64, 64, 64, 64, 10], seeds=[1], norm=norm)
    options = {"loss": network.softmax_cross_entropy, "optimizer": network.Adam(0.01)}
    network.fit(net, parts.train.x, parts.train.y, steps=7, batch_size=8, **options)
    for kind in ("moving 0.9", "recomputed"):
        if kind == "recomputed":
            net.recalibrate(parts.train.x)
        loss = network.evaluate(net, parts.test.x, parts.test.y, options["loss"])
        found = seen["log_loss"].sel(arm=kind, part="test").item()
        np.testing.assert_allclose(found, loss[0], rtol=1e-4)


def test_two_statistics_of_the_same_weights_are_compared_at_the_rate_that_one_of_them_chose():
    compared = chapter_06.predicted(batch_size=50, time=5)
    gain = chapter_06.effect(compared, "recomputed", "moving 0.99")
    kinds = "recomputed", "held still", "moving 0.99"
    parts = [chapter_06.effect(compared, *pair, kinds[2]) for pair in itertools.pairwise(kinds)]
    assert gain.mean > 0.1
    np.testing.assert_allclose(sum(part.mean for part in parts), gain.mean)
    losses = chapter_06.predicted(score="log_loss", batch_size=50, time=5)
    assert chapter_06.effect(losses, "recomputed", "moving 0.99").mean < 0.8


def test_a_training_that_diverges_is_told_and_not_divided_by():
    few = {"target": ["raw"], "batch_size": [32], "seed": [0, 1], "after": [50]}
    live = studies.get("rain").run(arm=["no BN", "BN"], learning_rate=[50.0], workers=1, **few)
    table = chapter_05.outputs(chapter_05.rain(record=live))
    assert table.loc["no BN", "rmse"] == "diverged"
    assert float(table.loc["BN", "rmse"]) < 100
    assert table.loc["BN", "÷ no BN"] == ""
