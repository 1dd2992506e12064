"""Keras on TensorFlow, and the only place that touches their private names.

Import `keras` and `tf` from here: TensorFlow then starts without its greeting. Private names may
change with any version of Keras or TensorFlow, so each stands in a small function that says what
it is for: in `graphs`, `optimizers`, `process` or `training`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bnutils._extras import extra


@contextmanager
def _silent_stderr() -> Iterator[None]:
    screen = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


# TensorFlow's first messages come before it reads any setting, straight to file descriptor 2.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _silent_stderr(), extra("doctor"):
    import keras
    import tensorflow as tf

if (backend := keras.backend.backend()) in ("jax", "numpy", "openvino", "torch"):
    raise ImportError(
        f"expected Keras to run on TensorFlow, but its backend is {backend!r}: "
        "set KERAS_BACKEND=tensorflow before keras is imported"
    )

from bnutils._keras.graphs import (  # noqa: E402
    OneCall,
    RecordedGraph,
    built_shapes,
    children,
    duplicate,
    graph_inputs,
    maker,
    mask_of,
    operation_class,
    recorded_graph,
    recorded_inputs,
    shorten_records,
    with_mask,
)
from bnutils._keras.optimizers import (  # noqa: E402
    decays,
    known_variables,
    optimizer_attributes,
    rebuild_optimizer,
)
from bnutils._keras.process import global_seeds, random_state, same_draws, scopes  # noqa: E402
from bnutils._keras.training import (  # noqa: E402
    STEP_FUNCTIONS,
    accepts,
    cheap_kernel_gradient,
    collected_losses,
    fresh_scores,
    given_losses,
    made_to_train,
    metrics_of,
    note_flags,
    one_replica,
    plain_functions,
    prepare_step,
    replicas,
    takes_training,
    trace_anew,
    traced_form,
    traced_steps,
    written_by,
)

__all__ = [
    "STEP_FUNCTIONS",
    "OneCall",
    "RecordedGraph",
    "accepts",
    "built_shapes",
    "cheap_kernel_gradient",
    "children",
    "collected_losses",
    "decays",
    "duplicate",
    "fresh_scores",
    "given_losses",
    "global_seeds",
    "graph_inputs",
    "keras",
    "known_variables",
    "made_to_train",
    "maker",
    "mask_of",
    "metrics_of",
    "note_flags",
    "one_replica",
    "operation_class",
    "optimizer_attributes",
    "plain_functions",
    "prepare_step",
    "random_state",
    "rebuild_optimizer",
    "recorded_graph",
    "recorded_inputs",
    "replicas",
    "same_draws",
    "scopes",
    "shorten_records",
    "takes_training",
    "tf",
    "trace_anew",
    "traced_form",
    "traced_steps",
    "with_mask",
    "written_by",
]
