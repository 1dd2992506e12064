"""For the tests of a project that trains Keras models: assert that a model is sound.

Needs TensorFlow. Works in pytest and in any other framework that understands `assert`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from bnutils._keras import keras
from bnutils.doctor.audit import audit
from bnutils.doctor.report import Report
from bnutils.doctor.rules import RULES

__all__ = ["assert_sound"]


def assert_sound(
    model: keras.Model,
    data: Any,
    *,
    batch_size: int | None = None,
    train_size: int | None = None,
    allow: Collection[str] = (),
) -> Report:
    """Assert that the audit finds neither an error nor a warning, and could look everywhere.

    Args:
        model: as for `bnutils.doctor.audit`.
        data: a sample of the training data, with targets if you have them; as for `audit`.
        batch_size: rows in a batch of training.
        train_size: rows in the training set.
        allow: names of rules whose findings are known and accepted, or that these data need not
            let decide.

    Returns:
        The report, whose notes may be worth a look.

    Raises:
        AssertionError: if there is an error or a warning of a rule that is not allowed, or if a
            part of the model could not be looked into. The message is the report.
        ValueError: if a name in `allow` is no rule, and as `audit` does.

    Example:
        >>> import numpy as np
        >>> from keras import Input, Sequential, layers
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
        >>> model = Sequential([Input((4,)), layers.BatchNormalization(momentum=0.1)])
        >>> _ = model.add(layers.Dense(1))
        >>> assert_sound(model, x, allow=["pytorch-momentum"]).errors
        ()
    """
    __tracebackhide__ = True  # pytest then shows the line that called
    names = {rule.name for rule in RULES}
    if unknown := sorted(set(allow) - names):
        raise ValueError(f"expected names of rules in allow, got {unknown}; there are {names}")
    report = audit(model, data, batch_size=batch_size, train_size=train_size)
    refused = [each for each in (*report.errors, *report.warnings) if each.rule not in allow]
    unseen = [each for each in report.skipped if each.needs is None and each.what not in allow]
    if refused or unseen or not report.batch_norms:
        raise AssertionError(f"expected a sound model, but\n{report}")
    return report
