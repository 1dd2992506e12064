"""The rules of `audit`, each a function under `@rule`.

A rule is a function from a `Case` (the model, its graph, the data, what a dry run showed) to the
`Finding`s it makes. Those that the data or a training step must show ask the case for it; the case
works each thing out once. To import a module of rules registers them.

Of the fifteen pains that the rules come from, one leaves no trace in a Keras model: whether the
variance in the moving average is divided by m or by m - 1. `bnutils.conventions` converts it.
"""

from __future__ import annotations

from bnutils.doctor.rules import learning, outputs, ranges, settings, statistics, structure
from bnutils.doctor.rules.case import Case
from bnutils.doctor.rules.registry import RULES, Finding, Rule

__all__ = [
    "RULES",
    "Case",
    "Finding",
    "Rule",
    "learning",
    "outputs",
    "ranges",
    "settings",
    "statistics",
    "structure",
]
