"""`bnutils.norm` beside Keras, PyTorch, Flax and ONNX, by what they computed when asked.

Their numbers are kept in conformance.npz, so that none of them is needed here; where one is
installed, it is asked again. Keras is asked in test_norm.py.
"""

import json

import numpy as np
import pytest
from conformance import (
    ALLOWED,
    ASK,
    CASES,
    LIBRARIES,
    NODES,
    QUANTITIES,
    TABLE,
    VECTORS,
    allowed,
    apart,
    inputs,
    kept,
    kept_nodes,
    node_differences,
    ours,
    table,
)

KEPT, VERSIONS = kept()
PUBLISHED = kept_nodes(KEPT)
ALL = [
    (library, case, dtype)
    for library, (_, _, cases) in LIBRARIES.items()
    for case in cases
    for dtype in ALLOWED
]


def kept_inputs(case, dtype):
    return {name: KEPT[f"inputs/{case}/{dtype}/{name}"] for name in inputs(case, dtype)}


@pytest.mark.parametrize(("library", "case", "dtype"), ALL)
def test_training_inference_statistics_and_gradients_are_those_of_the_library(library, case, dtype):
    found = ours(library, case, **kept_inputs(case, dtype))
    for name, value in zip(QUANTITIES, found, strict=True):
        assert value.dtype == dtype
        theirs = KEPT[f"{library}/{case}/{dtype}/{name}"]
        assert apart(value, theirs) < allowed(library, dtype, name), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_vectors_that_onnx_publishes_hold(name):
    assert max(node_differences(name, PUBLISHED[name])) < ALLOWED["float32"]


def test_every_kind_of_published_vector_is_there():
    for kind, least in zip(NODES, (4, 10, 2, 2), strict=True):
        assert sum(name.startswith(kind) for name in PUBLISHED) >= least
    assert sum("training" in name for name in PUBLISHED) == 2


@pytest.mark.parametrize(("library", "case", "dtype"), [each for each in ALL if each[0] != "Keras"])
def test_a_library_that_is_installed_still_computes_what_was_kept(library, case, dtype):
    pytest.importorskip(LIBRARIES[library][0])
    arrays = kept_inputs(case, dtype)
    again = zip(QUANTITIES, ASK[library](case, **arrays), strict=True)
    for name, value in again:
        theirs = KEPT[f"{library}/{case}/{dtype}/{name}"]
        assert apart(value, theirs) < allowed(library, dtype, name), name


@pytest.mark.parametrize("case", LIBRARIES["PyTorch"][2])
def test_the_conventions_of_two_libraries_are_told_apart(case):
    arrays = kept_inputs(case, "float64")
    keras, torch = (
        dict(zip(QUANTITIES, ours(library, case, **arrays), strict=True))
        for library in ("Keras", "PyTorch")
    )
    for name in QUANTITIES:
        if name != "dbeta":  # a sum over the batch, whatever the convention
            assert apart(keras[name], torch[name]) > 1e-5, name


def test_the_table_is_that_of_the_vectors():
    made, shown = table(KEPT, VERSIONS), json.loads(TABLE.read_text(encoding="utf-8"))
    assert shown["head"] == made["head"]
    assert shown["note"] == made["note"]
    assert [row[:2] for row in shown["rows"]] == [row[:2] for row in made["rows"]]
    for row, again in zip(shown["rows"], made["rows"], strict=True):
        for there, here in zip(row[2:], again[2:], strict=True):
            assert (there == "—") == (here == "—")
            assert there == "—" or float(there) <= 1e-5


def test_the_vectors_are_small_and_say_who_computed_them():
    assert VECTORS.stat().st_size < 100_000
    assert set(VERSIONS) >= {"keras", "tensorflow", "torch", "flax", "jax", "onnx", "numpy"}
    assert np.isfinite([np.abs(a).max() for a in KEPT.values()]).all()
    assert {key.split("/")[1] for key in KEPT if key.startswith("inputs/")} == set(CASES)
