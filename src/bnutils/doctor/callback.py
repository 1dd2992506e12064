"""The audit inside a training script: a Keras callback."""

from __future__ import annotations

from typing import Any

from bnutils._keras import keras
from bnutils.doctor.audit import audit
from bnutils.doctor.batches import batches, positive_integer
from bnutils.doctor.report import LEVELS, Diagnosis, Report

__all__ = ["AuditCallback"]


class AuditCallback(keras.callbacks.Callback):
    """Look at the model at the end of each epoch, and say once what is new.

    A finding is new if its rule has not named its layer before, or has named it at a lower level.
    The audit changes nothing, so that training goes on as without it; but a `tf.data.Dataset` that
    shuffles anew each time counts how often it was drawn from: give the callback one of its own.
    A look takes about as long as `audit` by itself.

    Args:
        data: as for `bnutils.doctor.audit`: a sample of the training data, with targets.
        batch_size: rows in a batch of training.
        train_size: rows in the training set.
        level: what is said: "error" for errors alone, "warning" for these and warnings, "note"
            for all.
        every: look after every so many epochs, and after the last one.

    Attributes:
        reports: the `Report` of each look, under the number of its epoch, counted from 1.

    Raises:
        ValueError: if an argument is not what it should be; when training starts, if the data do
            not suit the model.

    Example:
        >>> import numpy as np
        >>> from keras import Input, Sequential, layers
        >>> x = np.random.default_rng(0).normal(5, 1, (64, 4)).astype("float32")
        >>> model = Sequential([Input((4,)), layers.BatchNormalization(name="bn"), layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> look = AuditCallback((x, x[:, :1]), batch_size=32)
        >>> _ = model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[look])
        <BLANKLINE>
        Audit after epoch 1: ...
        >>> sorted(look.reports)
        [1, 2]
    """

    def __init__(
        self,
        data: Any = None,
        *,
        batch_size: int | None = None,
        train_size: int | None = None,
        level: str = "warning",
        every: int = 1,
    ) -> None:
        """Keep the arguments."""
        super().__init__()
        if level not in LEVELS:
            raise ValueError(f"expected a level of {LEVELS}, got {level!r}")
        if type(every) is not int or every < 1:
            raise ValueError(f"expected every to be a positive integer, got {every!r}")
        # A generator can be drawn only once: as batches it can be gone through at each look.
        self._data = data if data is None else batches(data, batch_size=batch_size)
        self._sizes = {
            name: None if size is None else positive_integer(size, name)
            for name, size in (("batch_size", batch_size), ("train_size", train_size))
        }
        self._levels = LEVELS[: LEVELS.index(level) + 1]
        self._every = every
        self._looked_at = None
        self._said: dict[tuple[str, str], str] = {}
        self._epoch = 0
        self.reports: dict[int, Report] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Refuse data that do not suit the model before an epoch is lost."""
        if self._looked_at is not self.model:  # what was said of another model is news of this one
            self._looked_at, self._said, self.reports = self.model, {}, {}
        if self._data is not None:
            batches(self._data, model=self.model).first()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Look, and print what is new."""
        self._epoch = epoch + 1
        if self._epoch % self._every == 0:
            self._look()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Look after the last epoch, also where training stopped early."""
        if self._epoch and self._epoch not in self.reports:
            self._look()

    def _look(self) -> None:
        report = audit(self.model, self._data, **self._sizes)
        self.reports[self._epoch] = report
        new = [each for each in report.diagnoses if each.level in self._levels and self._new(each)]
        for each in new:
            self._said[each.rule, each.layer] = each.level
        if new:
            # The progress bar of fit has not ended its line yet.
            print(f"\nAudit after epoch {self._epoch}: {report.only(new)}", flush=True)

    def _new(self, found: Diagnosis) -> bool:
        before = self._said.get((found.rule, found.layer))
        return before is None or LEVELS.index(found.level) < LEVELS.index(before)
