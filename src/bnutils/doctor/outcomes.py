"""What the outputs of a model decide, how well they meet the targets, and what a change changed.

Outputs may be of any rank and in any structure. Loss and metrics are those that the model was
compiled with, made new: its own count what has been seen so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bnutils._keras import fresh_scores, keras, tf
from bnutils.doctor.words import first_line, short

__all__ = [
    "WEIGHTED",
    "Change",
    "Comparison",
    "Decision",
    "Pair",
    "Score",
    "Scores",
    "changes",
    "decisions",
]

Kind = Literal["classes", "detections", "signs", "values"]
Verdict = Literal["better", "worse", "mixed", "alike"]

#: A loss, or an error, has changed if it did so by a tenth, and by three standard errors.
LOSS_MARGIN, SIGMAS = 0.1, 3.0
#: An accuracy, or another share, has changed if it did so by 0.02, and by half of 1 / sqrt(rows):
#: the largest standard deviation of a share of so many rows.
SHARE_MARGIN = 0.02
CHUNKS = 16  # parts whose losses give the standard error
#: Why rows with sample weights have no scores.
WEIGHTED = "sample weights are given, and not used: what the loss says is not judged"
HIGHER = ("acc", "auc", "precision", "recall", "f1", "fbeta", "iou", "r2", "cosine", "dice")
LOWER = ("error", "mae", "mse", "mape", "msle", "crossentropy", "hinge", "divergence", "logcosh")


@dataclass(frozen=True)
class Decision:
    """How decisions are read off one output.

    Attributes:
        output: the name of the output.
        kind: "classes" (the largest along the last axis, of probabilities or by a loss of
            classes), "detections" (what lies above the threshold), "signs" (what lies above zero),
            or "values" (as far as is known it decides nothing).
        threshold: of detections: 0.5, or 0 if the output holds logits.
    """

    output: str
    kind: Kind
    threshold: float = 0.0

    def of(self, values: np.ndarray) -> np.ndarray:
        """What an array of outputs decides: classes, or whether the threshold is passed."""
        if self.kind == "classes":
            return np.argmax(values, axis=-1)
        return values > self.threshold


@dataclass(frozen=True)
class Pair:
    """The outputs of one batch by two states of a model, with the targets.

    Attributes:
        y: the targets, in the model's own structure; None if there are none.
        before: outputs, NumPy arrays in the model's own structure.
        after: the others.
    """

    y: Any
    before: Any
    after: Any


@dataclass(frozen=True)
class Change:
    """What has changed in one output.

    Attributes:
        output: its name.
        kind: what it decides; see `Decision`.
        threshold: of detections.
        decisions: how many decisions were compared; 0 for "values".
        changed: the share of them that fall otherwise.
        above_before: the share of values above the threshold, for "detections" and "signs".
        above_after: the same afterwards.
        moved: how far values moved, root mean square, in standard deviations of the values before.
    """

    output: str
    kind: Kind
    threshold: float
    decisions: int
    changed: float | None
    above_before: float | None
    above_after: float | None
    moved: float

    def __str__(self) -> str:
        """A sentence."""
        moved = f"moved by {short(self.moved)} standard deviations"
        if self.kind == "values":
            return f"{self.output}: values {moved}."
        if self.kind == "classes":
            return f"{self.output}: {self.changed:.1%} of {self.decisions:,} classes changed."
        share = f"{self.changed:.1%} of {self.decisions:,} values"
        if self.kind == "signs":
            return f"{self.output}: {share} changed sign; they {moved}."
        return (
            f"{self.output}: {share} cross {self.threshold:g}; {self.above_before:.1%} were above, "
            f"{self.above_after:.1%} are."
        )


@dataclass(frozen=True)
class Score:
    """The loss or a metric before and after.

    Attributes:
        name: its name, as `evaluate` gives it.
        before: its value.
        after: its value afterwards.
        verdict: "better", "worse", "alike" (no change that counts), or None if it is not known
            which way is better, or if neither value is a number.
    """

    name: str
    before: float
    after: float
    verdict: Verdict | None

    def __str__(self) -> str:
        """Both values."""
        return f"{self.name} {self.before:.4g} before, {self.after:.4g} after"


@dataclass(frozen=True)
class Comparison:
    """Two states of a model on the same rows.

    Attributes:
        rows: how many rows.
        whole: whether these are all rows of the data.
        first: whether they are the first rows of the data; otherwise they come from all over.
        scores: the compiled loss and metrics, if there are targets.
        no_scores: why there are none; None if there are.
        changes: one `Change` for each output.
    """

    rows: int
    whole: bool
    first: bool
    scores: tuple[Score, ...]
    no_scores: str | None
    changes: tuple[Change, ...]

    @property
    def verdict(self) -> Verdict | None:
        """Whether the model became better or worse on these rows; None if nothing tells."""
        found = [score.verdict for score in self.scores if score.verdict]
        if not found:
            return None
        better, worse = "better" in found, "worse" in found
        if better and worse:
            return "mixed"
        return "better" if better else "worse" if worse else "alike"

    @classmethod
    def of(
        cls,
        model: keras.Model,
        pairs: Sequence[Pair],
        *,
        rows: int,
        whole: bool,
        first: bool,
        weighted: bool = False,
    ) -> Comparison:
        """Compare.

        Args:
            model: the model.
            pairs: the batches.
            rows: see `Comparison`.
            whole: see `Comparison`.
            first: see `Comparison`.
            weighted: whether the rows have sample weights: then no score is computed, since
                without them it may say the reverse of the truth.
        """
        scores, reason = (), "no targets were given"
        if weighted:
            reason = WEIGHTED
        elif pairs and all(pair.y is not None for pair in pairs):
            judge = Scores(model)
            reason = judge.lacking
            if reason is None:
                try:
                    scores = tuple(judge.compare(pairs))
                except Exception as error:  # whatever a foreign loss or metric raises
                    name = type(error).__name__
                    reason = f"the compiled loss cannot be computed: {name}: {first_line(error)}"
        return cls(rows, whole, first, scores, reason, tuple(changes(model, pairs)))

    def sentences(self) -> list[str]:
        """What changed, in words."""
        kind = "all " if self.whole else "the first " if self.first else ""
        where = "" if self.whole or self.first else " from all over the data"
        lines = [f"Compared on {kind}{self.rows:,} rows{where}:"]
        lines += [f"{score}{_after(score)}." for score in self.scores]
        lines += map(str, self.changes)
        if self.no_scores:
            lines.append(f"Whether that is better cannot be told: {self.no_scores}.")
        return lines


def _after(score: Score) -> str:
    return f": {score.verdict}" if score.verdict in ("better", "worse") else ""


def decisions(model: keras.Model, outputs: Sequence[Any]) -> list[Decision]:
    """Tell what each output of a model decides, by its loss if the model is compiled, or by values.

    Args:
        model: the model.
        outputs: what it gave for one or several batches, in its own structure.

    Returns:
        One `Decision` for each output, in the order of `keras.tree.flatten`.
    """
    names = _names(model, outputs[0])
    flat = [keras.tree.flatten(each) for each in outputs]
    losses = _losses(model, names)
    return [
        _decision(name, losses.get(name), [np.asarray(each[number]) for each in flat])
        for number, name in enumerate(names)
    ]


def changes(model: keras.Model, pairs: Sequence[Pair]) -> Iterable[Change]:
    """Compare outputs by what they decide and by how far they moved; one `Change` for each."""
    if not pairs:
        return
    both = [state for pair in pairs for state in (pair.before, pair.after)]
    for number, decision in enumerate(decisions(model, both)):
        before, after = (
            [np.asarray(keras.tree.flatten(each)[number]) for each in states]
            for states in ([pair.before for pair in pairs], [pair.after for pair in pairs])
        )
        moved = _moved(before, after)
        if decision.kind == "values":
            yield Change(decision.output, "values", 0.0, 0, None, None, None, moved)
            continue
        taken = [[decision.of(each) for each in state] for state in (before, after)]
        count = sum(each.size for each in taken[0])
        other = sum(int(np.sum(a != b)) for a, b in zip(*taken, strict=True))
        above = [None, None]
        if decision.kind != "classes":
            above = [sum(int(np.sum(each)) for each in state) / max(1, count) for state in taken]
        yield Change(
            decision.output,
            decision.kind,
            decision.threshold,
            count,
            other / max(1, count),
            *above,
            moved,
        )


class Scores:
    """The loss and the metrics with which a model was compiled, made new.

    Attributes:
        lacking: why there is no loss to compare; None if there is one, or if there are metrics.
    """

    def __init__(self, model: keras.Model) -> None:
        """Take what a model was compiled with; the model stays as it is."""
        self._model = model
        self._loss = self._metrics = self.lacking = None
        if not model.compiled:
            self.lacking = "the model is not compiled"
            return
        self._loss, self._metrics = fresh_scores(model)
        if type(model).compute_loss is not keras.Model.compute_loss:
            self._loss = None
        if self._loss is None and self._metrics is None:
            self.lacking = "the model computes its loss by itself"

    def losses(self, y: Any, outputs: Any, chunks: int = CHUNKS) -> tuple[np.ndarray, np.ndarray]:
        """Compute the loss of parts of a batch.

        Args:
            y: the targets, in the model's own structure.
            outputs: the model's outputs, likewise.
            chunks: into how many parts the rows are cut; fewer if there are not so many.

        Returns:
            `(losses, rows)`, each [chunks].
        """
        found = []
        y = keras.tree.map_structure(_text_as_text, y)
        for part, made in _chunks(y, outputs, chunks):
            found.append((float(self._loss(part, made)), _rows(made)))
        return tuple(np.array(each) for each in zip(*found, strict=True))

    @property
    def has_loss(self) -> bool:
        """Whether there is a loss: `losses` needs one."""
        return self._loss is not None

    def targets(self, y: Any, outputs: Any) -> list[Any]:
        """The target of each output, in the order of `keras.tree.flatten`; None if it has none."""
        names = _names(self._model, outputs)
        if isinstance(y, dict):
            return [y.get(name) for name in names]
        flat = keras.tree.flatten(y)
        return flat if len(flat) == len(names) else [None] * len(names)

    def metrics(self, batches: Iterable[tuple[Any, Any]]) -> dict[str, float]:
        """Compute the compiled metrics over batches `(y, outputs)`."""
        if self._metrics is None:
            return {}
        self._metrics.reset_state()
        for y, outputs in batches:
            self._metrics.update_state(y, outputs)
        values = {name: np.asarray(value) for name, value in self._metrics.result().items()}
        return {name: float(value) for name, value in values.items() if value.ndim == 0}

    def hits(self, y: Any, outputs: Any) -> dict[str, np.ndarray]:
        """Tell how often each row is right, for outputs whose loss is a crossentropy.

        Returns:
            For each such output its share of right decisions in each row, [rows].
        """
        found = {}
        names = _names(self._model, outputs)
        losses = _losses(self._model, names)
        decided = decisions(self._model, [outputs])
        flat = zip(decided, self.targets(y, outputs), keras.tree.flatten(outputs), strict=True)
        for decision, wanted, made in flat:
            name = _loss_name(losses.get(decision.output))
            if "crossentropy" not in name or wanted is None:
                continue
            wanted, made = np.asarray(wanted), np.asarray(made)
            if decision.kind == "classes":
                wanted = wanted if name.startswith("sparse") else np.argmax(wanted, axis=-1)
            else:
                wanted = wanted > 0.5
            picked = decision.of(made)
            if picked.size == wanted.size:
                right = picked == wanted.reshape(picked.shape)
                found[decision.output] = right.reshape(len(right), -1).mean(axis=1)
        return found

    def compare(self, pairs: Sequence[Pair]) -> Iterable[Score]:
        """Compare loss and metrics of two states of the model."""
        if self._loss is not None:
            yield self._compared_loss(pairs)
        before = self.metrics((pair.y, pair.before) for pair in pairs)
        after = self.metrics((pair.y, pair.after) for pair in pairs)
        rows = sum(_rows(pair.before) for pair in pairs)
        for name, one in before.items():
            yield Score(name, one, after[name], _metric_verdict(name, one, after[name], rows))

    def _compared_loss(self, pairs: Sequence[Pair]) -> Score:
        chunks = math.ceil(CHUNKS / len(pairs))
        parts = [
            (self.losses(pair.y, pair.before, chunks), self.losses(pair.y, pair.after, chunks))
            for pair in pairs
        ]
        before, after, rows = (
            np.concatenate(each)
            for each in zip(*((one[0], two[0], one[1]) for one, two in parts), strict=True)
        )
        mean = [float(np.average(each, weights=rows)) for each in (before, after)]
        error = np.std(after - before) / math.sqrt(max(1, len(rows) - 1))
        margin = max(LOSS_MARGIN * abs(mean[0]), SIGMAS * error)
        return Score("loss", *mean, _verdict(*mean, -1, margin))


def _verdict(before: float, after: float, direction: int, margin: float) -> Verdict | None:
    if not math.isfinite(before) or not math.isfinite(after):
        if math.isfinite(before) == math.isfinite(after):
            return None
        return "better" if math.isfinite(after) else "worse"
    gain = direction * (after - before)
    return "better" if gain > margin else "worse" if gain < -margin else "alike"


def _metric_verdict(name: str, before: float, after: float, rows: int) -> Verdict | None:
    lower = name.lower().replace("_", "")
    if any(word in lower for word in HIGHER):
        margin = max(SHARE_MARGIN, 0.5 / math.sqrt(max(1, rows)))
        return _verdict(before, after, 1, margin)
    if any(word in lower for word in LOWER):
        return _verdict(before, after, -1, LOSS_MARGIN * abs(before))
    return None


def _names(model: keras.Model, outputs: Any) -> list[str]:
    """The names of the outputs, in the order of `keras.tree.flatten`."""
    flat = keras.tree.flatten(outputs)
    if isinstance(outputs, dict) and len(outputs) == len(flat):
        return [str(name) for name in sorted(outputs)]
    names = getattr(model, "output_names", None) or []
    if len(names) == len(flat) == len(set(names)):
        return list(names)
    if len(flat) == 1:
        return ["output"]
    return [f"output {number}" for number in range(len(flat))]


def _losses(model: keras.Model, names: Sequence[str]) -> dict[str, Any]:
    """The loss of each output, by name."""
    loss = getattr(model, "loss", None) if model.compiled else None
    if isinstance(loss, dict):
        return loss
    flat = keras.tree.flatten(loss)
    return dict(zip(names, flat if len(flat) == len(names) else flat * len(names), strict=False))


def _loss_name(loss: Any) -> str:
    """The name of a loss in lower case, without underscores: "sparsecategoricalcrossentropy"."""
    if loss is None:
        return ""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    return getattr(loss, "__name__", type(loss).__name__).replace("_", "").lower()


def _decision(name: str, loss: Any, arrays: list[np.ndarray]) -> Decision:
    if any(array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16" for array in arrays):
        return Decision(name, "values")
    arrays = [array.astype("float64") for array in arrays if array.size]
    channels = {array.shape[-1] if array.ndim > 1 else 1 for array in arrays}
    several = min(channels, default=1) > 1
    finite = [array[np.isfinite(array)] for array in arrays]
    low = min((array.min() for array in finite if array.size), default=0.0)
    high = max((array.max() for array in finite if array.size), default=0.0)
    unit = low >= 0 and high <= 1
    kind = _loss_name(loss)
    if "binary" in kind and "crossentropy" in kind:
        return Decision(name, "detections", 0.0 if getattr(loss, "from_logits", False) else 0.5)
    if several and ("crossentropy" in kind or kind == "categoricalhinge"):
        return Decision(name, "classes")
    if kind and "hinge" not in kind:
        return Decision(name, "values")
    if unit and several and all(np.allclose(a.sum(axis=-1), 1, atol=1e-3) for a in arrays):
        return Decision(name, "classes")
    if unit:
        return Decision(name, "detections", 0.5)
    if several and not kind:  # scores of classes, an embedding, or what an autoencoder restores
        return Decision(name, "values")
    return Decision(name, "signs" if low < 0 < high else "values")


def _moved(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    squares = spread = 0.0
    for one, two in zip(before, after, strict=True):
        if one.dtype.kind in "OSUb":
            return math.nan
        one, two = one.astype("float64"), two.astype("float64")
        squares += float(np.sum((two - one) ** 2))
        spread += float(np.sum((one - one.mean(axis=0)) ** 2))
    if squares == 0:
        return 0.0
    return math.sqrt(squares / spread) if spread > 0 else math.inf


def _text_as_text(leaf: Any) -> Any:
    """Text as `evaluate` gives it to a loss: a loss would read numbers in text of NumPy."""
    text = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSU"
    return tf.convert_to_tensor(leaf) if text else leaf


def _rows(outputs: Any) -> int:
    return int(keras.tree.flatten(outputs)[0].shape[0])


def _chunks(y: Any, outputs: Any, chunks: int) -> Iterable[tuple[Any, Any]]:
    """Cut targets and outputs into parts, if each has its own row in both."""
    leaves = [leaf for part in (y, outputs) for leaf in keras.tree.flatten(part)]
    rows = {leaf.shape[0] for leaf in leaves}
    if len(rows) > 1:
        yield y, outputs
        return
    for part in np.array_split(np.arange(rows.pop()), chunks):
        if len(part):
            rows_now = slice(part[0], part[-1] + 1)
            yield tuple(
                keras.tree.map_structure(lambda leaf, rows=rows_now: leaf[rows], each)
                for each in (y, outputs)
            )
