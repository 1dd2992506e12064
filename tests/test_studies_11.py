"""Chapter 11's studies: replicas in one array program, shards, and what two workers measured."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from bnutils.evidence import Study, Tolerance, provenance
from bnutils.norm import BatchNorm
from bnutils.replicas import Link
from bnutils.studies import chapter_11, two_workers


def test_the_first_replicas_averages_are_those_of_a_layer_that_sees_its_rows_alone():
    norm = chapter_11.Replicas(4, momentum=0.9)
    layer, alone, whole = norm.build(1, 3, np.dtype(float)), BatchNorm(momentum=0.9), BatchNorm()
    whole.momentum = 0.9
    for seed in range(3):
        x = np.random.default_rng(seed).normal(seed, 2, size=(1, 12, 3))
        y = layer(x, training=True)
        np.testing.assert_allclose(y[0, :4], alone(x[0, :4], training=True), rtol=1e-12)
        whole(x[0], training=True)
    for mean, variance, expected in (
        (layer.first_mean, layer.first_variance, alone),
        (layer.moving_mean, layer.moving_variance, whole),
    ):
        np.testing.assert_allclose(mean[0], expected.moving_mean, rtol=1e-12)
        np.testing.assert_allclose(variance[0], expected.moving_variance, rtol=1e-12)
    before = layer.first_mean.copy()
    layer(x)
    np.testing.assert_array_equal(layer.first_mean, before)  # inference learns nothing


@pytest.mark.parametrize(("kind", "most"), [("dealt", 10), ("sorted", 3)])
def test_each_replica_walks_through_its_own_shard(kind, most):
    labels = np.random.default_rng(0).integers(0, 10, 1097)
    shards = chapter_11.shards(labels, 1, kind, 8)
    assert shards.shape == (8, 137)
    assert len(np.unique(shards)) == 8 * 137
    assert max(len(set(labels[rows])) for rows in shards) <= most
    assert len(set(labels[shards[0]])) == (10 if kind == "dealt" else 2)
    walk = chapter_11.batches(shards, 1, 4)
    seen = np.concatenate([next(walk).reshape(8, 4) for _ in range(34)], axis=1)
    for rows, shard in zip(seen, shards, strict=True):
        assert len(set(rows)) == 4 * 34
        assert set(rows) <= set(shard)


def test_on_one_replica_there_is_nothing_to_synchronize():
    study = next(each for each in chapter_11.STUDIES if each.name == "replica-batches")
    few = {"seed": [0], "shards": ["dealt"], "local_batch": [32], "learning_rate": [0.1]}
    record = study.run(arm=["synchronized", "local"], replicas=1, passes=1, workers=1, **few)
    together, alone = (record.sel(arm=arm) for arm in ("synchronized", "local"))
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-5)
    for arm, kind in (("local", "moving"), ("local", "first replica"), ("synchronized", "moving")):
        accuracy = record["accuracy"].sel(arm=arm, statistics=kind).values
        expected = together["accuracy"].sel(statistics="moving").values
        np.testing.assert_allclose(accuracy, expected, atol=0.01)


def test_the_link_predicts_times_that_follow_the_model():
    links = [Link(1e-4, 1e9), Link(2e-4, 5e8)]
    numbers, collectives = [2, 4096, 1048576], np.array([[1, 6], [1, 21]])
    seconds = [[link.all_reduce(4 * size, 2, "ring") for link in links] for size in numbers]
    each = np.array([link.all_reduce(4 * 256, 2, "ring") for link in links])
    record = xr.Dataset(
        {
            "seconds": (("numbers", "seed"), seconds),
            "step": (("layers", "arm", "seed"), 0.01 + collectives[..., None] * each),
            "collectives": (("layers", "arm", "seed"), np.stack([collectives] * 2, axis=-1)),
        },
        {"numbers": numbers, "layers": [1, 4], "arm": two_workers.ARMS, "seed": [0, 1]},
        {"provenance": '{"settings": {"fixed": {"width": 256}}}'},
    )
    for found, link in zip(chapter_11.links(record), links, strict=True):
        assert found.latency == pytest.approx(link.latency, rel=1e-6)
        assert found.bandwidth == pytest.approx(link.bandwidth, rel=1e-6)
    assert chapter_11.message(4096, record).mean == pytest.approx(1, rel=1e-6)
    measured, predicted = chapter_11.added(4, record)
    np.testing.assert_allclose(measured, predicted, rtol=1e-6)
    np.testing.assert_allclose(predicted, 20 * each, rtol=1e-6)


@pytest.mark.parametrize(("said", "runs"), [(["", ""], 1), (["", "ValueError: no"], 0)])
def test_what_two_workers_return_is_compared_with_one_device(monkeypatch, said, runs):
    parts = [two_workers.example(3, index) for index in range(2)]

    def of(x, dy):
        layer = BatchNorm(momentum=two_workers.MOMENTUM)
        y, dx = layer(x.astype(float), training=True), layer.backward(dy.astype(float))
        return [y, dx, layer.dgamma, layer.dbeta, layer.moving_mean, layer.moving_variance]

    whole = of(*map(np.concatenate, zip(*parts, strict=True)))

    def measured(settings, index):
        mine = slice(6 * index, 6 * index + 6)
        shares = [total / 2 for total in whole[2:4]]  # of the gradients that both add up
        return {
            "bn": {
                "synchronized": [whole[0][mine], whole[1][mine], *shares, *whole[4:]],
                "local": of(*parts[index]),
            },
            "seconds": np.array([1.0, 3.0]) + index * np.array([1.0, -1.0]),
            "step": np.full((1, 2), 5.0 + index),
            "collectives": np.array([[1, 6]]),
            "fit": said[index],
        }

    monkeypatch.setattr(two_workers, "measured", measured)
    monkeypatch.setattr(
        chapter_11.workers, "run", lambda function, timeout: [*map(function, (0, 1))]
    )
    found = chapter_11.workers_block({"seed": 3, "numbers": [2, 4], "layers": [1]})
    assert found["seconds"].values.tolist() == [2, 3]  # of the worker that took longer
    assert found["step"].values.tolist() == [[6, 6]]
    assert found["fit_runs"].item() == runs
    errors = found["error"]
    pairs = {"synchronized": "all examples", "local": "own examples"}
    for arm, like in pairs.items():
        assert errors.sel(arm=arm, of=like).max() < 1e-12
        others = errors.sel(arm=arm).drop_sel(of=like, quantity="dbeta")  # dbeta adds dy up
        assert others.min() > 0.05


def test_the_seconds_of_processes_that_a_block_starts_count(monkeypatch):
    ended = iter([(1.0, 0.5), (4.0, 1.5)])  # user and system, before the block and after it

    def times():
        user, system = next(ended)
        return SimpleNamespace(children_user=user, children_system=system)

    study = Study(
        name="busy",
        question="How long?",
        block=lambda settings: xr.Dataset({"done": ((), 1.0)}),
        dims={"seed": [0]},
        tolerances={"done": Tolerance(0.0)},
    )
    monkeypatch.setattr(os, "times", times)
    assert provenance(study.run(workers=1))["cpu_seconds"] >= 4
