"""What a rule of `audit` is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from bnutils.doctor.results import Skipped
from bnutils.doctor.words import listing

__all__ = ["RULES", "Finding", "Rule", "freeze", "rule"]

Level = Literal["error", "warning", "note"]
Need = Literal["data", "dry run", "compiled", "batch_size", "train_size"]


@dataclass(frozen=True)
class Finding:
    """What one rule found in one place; the fields are those of `Diagnosis`."""

    level: Level
    layer: str
    evidence: str
    why: str
    repair: str


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: its identifier, as in `Diagnosis.rule`. Two functions may share one.
        levels: the levels at which it may report.
        chapter: the chapter that explains it.
        needs: what it cannot do without.
        check: the function, from a `Case` to `Finding`s, and to a `Skipped` where the data do not
            let a rule decide.
    """

    name: str
    levels: tuple[Level, ...]
    chapter: str
    needs: tuple[Need, ...]
    check: Callable[[Any], Iterator[Finding | Skipped]]


#: In the order in which a report lists what is of equal level.
RULES: list[Rule] = []


def rule(
    name: str, *, levels: str, chapter: str, needs: tuple[Need, ...] = ()
) -> Callable[[Callable], Callable]:
    """Make a rule of the function below.

    Args:
        name: its identifier, in lower case with hyphens.
        levels: the levels at which it may report, such as "error warning".
        chapter: the chapter that explains it, such as "06_training_and_inference".
        needs: what it cannot do without: "data", "dry run" (one training step), "compiled" (a
            compiled model), "batch_size", "train_size".
    """

    def register(check: Callable) -> Callable:
        RULES.append(Rule(name, tuple(levels.split()), chapter, needs, check))
        return check

    return register


def freeze(case: Any, layers: Iterable[Any], found: Iterable[Any]) -> str:
    """How to freeze some of the batch normalization layers, in a sentence.

    `freeze_bn` freezes all of them; others that learn may be meant to.

    Args:
        case: the model under audit.
        layers: the layers of one finding.
        found: the layers of all findings of the rule.
    """
    found = list(found)
    others = [layer for layer in case.learners if not any(layer is each for each in found)]
    if not others:
        return (
            "Call freeze_bn(model): it sets trainable=False, has fit, evaluate and predict traced "
            "anew, and proves it."
        )
    return (
        f"Set trainable = False on {listing(map(case.path, layers))} and compile the model again. "
        f"freeze_bn(model) would also freeze {listing(map(case.path, others))}."
    )
