"""What is wrong with the batch normalization of a model? `audit` looks, and changes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bnutils._keras import keras, tf
from bnutils.doctor.report import Diagnosis, Report
from bnutils.doctor.restoring import LOCK, restored
from bnutils.doctor.results import Skipped
from bnutils.doctor.rules import RULES, Case, Finding, Rule
from bnutils.doctor.rules.case import LEAST_ROWS
from bnutils.doctor.subject import Subject
from bnutils.doctor.words import cause, listing

__all__ = ["audit"]

#: Layers that run code of another library, or a graph that is closed.
OPAQUE = (
    keras.layers.TFSMLayer,
    keras.layers.JaxLayer,
    keras.layers.FlaxLayer,
    keras.layers.TorchModuleWrapper,
)


def audit(
    model: keras.Model,
    data: Any = None,
    *,
    batch_size: int | None = None,
    train_size: int | None = None,
) -> Report:
    """Look for faults in how a Keras model uses batch normalization.

    The graph of the model shows part of them. A dry run of one training step, undone afterwards,
    shows which layers learn. With data the statistics and outputs of both modes are compared.
    The model stays as it is: weights, optimizer, metrics, random states, compilation. Of a model
    without a `call` of its own, that is trained through its parts, the parts are looked at as far
    as that goes without their inputs; the report says how to audit each of them in full.

    Whether the moving variance is divided by m or by m - 1 cannot be seen in a Keras model; see
    `bnutils.conventions`.

    Args:
        model: a built Keras model of any kind, compiled if you want to know what `fit` would do.
        data: training data, as the model takes them: arrays, `(x, y)`, or anything else that
            `bnutils.doctor.batches.batches` takes. Give the targets too: then loss and accuracy
            are compared. Data that come in batches should come as `fit` gets them: batch mode is
            measured in them. A part of the rows is used, always the same: of arrays 1,024 drawn
            at random; of batches whole ones from all over, about as many rows; of a stream too
            long to go through its first batches, and the report says so. For a large model the
            rows are fewer, down to 8. With fewer than 8 what needs data is left out. With sample
            weights the loss is not judged, and the report says so.
        batch_size: rows in a batch of training, for arrays. If it is None batch mode is measured
            in batches of 32, as in `fit`.
        train_size: rows in the training set.

    Returns:
        A `Report`. What could not be checked is listed there, with the reason.

    Raises:
        ValueError: if an argument is not what it should be, or the data do not suit the model.

    Example:
        >>> from keras import Input, Sequential, layers
        >>> model = Sequential([Input((4,)), layers.Dense(8), layers.Activation("relu")])
        >>> model.add(layers.BatchNormalization(momentum=0.1, name="bn"))
        >>> model.add(layers.Dense(1))
        >>> [(found.level, found.rule, found.layer) for found in audit(model).warnings]
        [('warning', 'pytorch-momentum', 'bn')]
    """
    with LOCK, _unoptimized(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Keras remarks of a model, it has told its author
        return _audit(Case(Subject(model), data, batch_size=batch_size, train_size=train_size))


@contextmanager
def _unoptimized() -> Iterator[None]:
    """Run graphs as they are: each runs once or twice, and to optimize it takes far longer."""
    options = tf.config.optimizer.get_experimental_options()
    try:
        tf.config.optimizer.set_experimental_options({**options, "disable_meta_optimizer": True})
        yield
    finally:
        with restored():
            tf.config.optimizer.set_experimental_options(options)


def _audit(case: Case) -> Report:
    found, checked, undecided, skipped = [], [], [], [*_unseen(case)]
    for rule in RULES if case.layers else ():
        lacking = next(
            filter(None, (_lacking(case, need) for need in ("built", *rule.needs))), None
        )
        if lacking is None:
            with restored():  # an interrupt waits for the end of a rule, not of them all
                try:
                    for made in rule.check(case):
                        if isinstance(made, Skipped):
                            undecided.append(made)
                        else:
                            found.append(_diagnosis(rule, made))
                    checked.append(rule.name)
                    continue
                except Exception as error:
                    # One rule that fails on a strange model must not keep the others from looking.
                    lacking = f"crashed: {cause(error)}", None
        reason, argument = lacking
        skipped.append(Skipped(rule.name, reason, "rule", argument))
    skipped += undecided
    return Report(
        model=case.model.name,
        batch_norms=len(case.layers),
        diagnoses=found,
        checked=[name for name in checked if all(name != each.what for each in undecided)],
        rows=case.rows,
        rows_are_the_first=case.rows_are_the_first,
        skipped=tuple(dict.fromkeys(skipped)),
    )


def _unseen(case: Case) -> Iterator[Skipped]:
    """The parts of the model that no rule can look into, with the reason."""
    for part in (*case.graph.unwalked, *_unreached(case)):
        yield Skipped(part.path, part.reason)
    for layer, path in case.subject.paths.items():
        if isinstance(layer, OPAQUE):
            yield Skipped(path, f"the inside of a {type(layer).__name__} cannot be seen")
    if not case.subject.has_call:
        for expression, part in case.subject.parts.items():
            yield Skipped(
                case.path(part),
                f"{type(case.model).__name__} has no call method, so what reaches its parts is not "
                f"known: audit({expression}, data) with the data that it is given in training",
            )


def _unreached(case: Case) -> tuple:
    try:
        return case.unreached
    except Exception as error:  # whatever the call of a model raises
        raise ValueError(
            f"expected data on which {case.model.name!r} can be called, got: {cause(error)}"
        ) from error


def _diagnosis(rule: Rule, finding: Finding) -> Diagnosis:
    if finding.level not in rule.levels:
        raise AssertionError(f"{rule.name} reports at level {finding.level!r}")
    return Diagnosis(rule=rule.name, chapter=rule.chapter, **vars(finding))


def _lacking(case: Case, need: str) -> tuple[str, str | None] | None:
    """Why something that a rule needs is not there, and the argument that would bring it."""
    if need == "built":
        if case.subject.built:
            return None
        what = "the model" if case.subject.has_call else "a part of the model"
        return f"{what} is not built yet: call it on data first", None
    if need == "data" and not case.subject.has_call:
        return "needs the data of each part: " + listing(
            f"audit({expression}, data)" for expression in case.subject.parts
        ), None
    if need == "data" and case.rows is not None and case.rows < LEAST_ROWS:
        return f"needs at least {LEAST_ROWS} rows of data, got {case.rows}", None
    if need == "dry run":
        return (case.dry_failure, None) if case.dry_failure else None
    absent = {
        "data": (case.rows is None, "needs data: audit(model, (x, y))"),
        "batch_size": (case.batch_size is None, "needs batch_size"),
        "train_size": (case.train_size is None, "needs train_size"),
        "compiled": (case.optimizer is None, "needs a compiled model"),
    }
    is_absent, reason = absent[need]
    return (reason, need) if is_absent else None
