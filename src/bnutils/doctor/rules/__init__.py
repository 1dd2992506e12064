"""The rules of `audit`, one function each, and the table that lists them.

A rule is a function from a `Case` (the model, its graph, the data, what a dry run showed) to the
`Finding`s it makes. Those that the data or a training step must show ask the case for it; the case
works each thing out once.

Of the fifteen pains that the rules come from, one leaves no trace in a Keras model: whether the
variance in the moving average is divided by m or by m - 1. `bnutils.conventions` converts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bnutils.doctor.rules import learning, measured, settings, structure
from bnutils.doctor.rules.case import Case, Finding

__all__ = ["RULES", "Case", "Finding", "Rule"]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: its identifier, as in `Diagnosis.rule`.
        chapter: the chapter that explains it.
        levels: the levels at which it may report.
        check: the function.
        needs: what it cannot do without: "data", "dry run", "compiled", "batch_size",
            "train_size".
    """

    name: str
    chapter: str
    levels: tuple[str, ...]
    check: Callable[[Case], Iterator[Finding]]
    needs: tuple[str, ...] = ()


_INPUTS, _MATH, _KERAS = "05_inputs_and_outputs", "02_the_math", "04_keras"
_MODES, _TUNING, _AUDIT = "06_training_and_inference", "09_fine_tuning", "12_audit"
_E, _W, _N = "error", "warning", "note"

# In the order in which a report lists what is of equal level. never-updated has two parts: what
# the variables show, and what a training step shows.
RULES = (
    Rule("bad-variance", _MODES, (_E, _W), settings.bad_variance),
    Rule("never-updated", _MODES, (_E, _W, _N), settings.never_updated),
    Rule("never-updated", _MODES, (_E,), learning.forgotten_training, ("dry run",)),
    Rule("stale-compile", _TUNING, (_E,), learning.stale_compile, ("compiled", "dry run")),
    Rule("frozen-but-learning", _TUNING, (_E, _W, _N), learning.frozen_but_learning, ("dry run",)),
    Rule("ignored-training-argument", _TUNING, (_E,), structure.ignored_training_argument),
    Rule("modes-disagree", _MODES, (_E, _W), measured.modes_disagree, ("data",)),
    Rule("stale-statistics", _MODES, (_E, _W, _N), measured.stale_statistics, ("data",)),
    Rule("wrong-axis", _KERAS, (_E, _W), structure.wrong_axis),
    Rule("batch-of-one", _MODES, (_E, _W), settings.batch_of_one, ("batch_size",)),
    Rule("partial-batch", _MODES, (_W, _N), settings.partial_batch, ("batch_size", "train_size")),
    Rule("output-bn", _INPUTS, (_W, _N), structure.output_bn),
    Rule("pytorch-momentum", _KERAS, (_W,), settings.pytorch_momentum),
    Rule("shared-bn", _MODES, (_W, _N), measured.shared_bn),
    Rule("dropout-before-bn", _MODES, (_W, _N), measured.dropout_before_bn),
    Rule("vanishing-variance", _MODES, (_W, _N), measured.vanishing_variance),
    Rule("half-precision-variables", _KERAS, (_W,), settings.half_precision_variables),
    Rule("gradient-accumulation", _AUDIT, (_W, _N), settings.gradient_accumulation, ("compiled",)),
    Rule("replica-batch", _AUDIT, (_W, _N), settings.replica_batch),
    Rule("decayed-gamma-beta", _AUDIT, (_N,), settings.decayed_gamma_beta),
    Rule("dead-bias", _MATH, (_N,), structure.dead_bias),
    Rule("after-activation", _KERAS, (_N,), structure.after_activation),
)
