"""Do inference mode and batch mode give the same, and if not, which of them does better?"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from bnutils._keras import keras
from bnutils.doctor.outcomes import WEIGHTED, Decision, Scores, decisions
from bnutils.doctor.rules.runs import SIGMAS, Run, Runs
from bnutils.doctor.words import first_line, short

__all__ = ["ASSUMED", "LEVELS", "Modes", "Skill", "Verdict"]

LEVELS = ("", "warning", "error")
#: Accuracy lost, as a share of all decisions: three in a hundred are seen, ten are a broken model.
LOST, VERY_LOST = 0.03, 0.1
#: A loss that is larger by a quarter, or twice as large, and not by less than a fiftieth of what
#: the mean of the targets loses as a prediction: below that both predict well.
LARGER, TWICE, RELEVANT = 0.25, 1.0, 0.02
#: A loss that is larger by so much than that of guessing is worse than guessing; if decisions come
#: out right more often than by chance it may be too sure of the others, but not twice as bad.
WORSE, MUCH_WORSE = 0.25, 1.0
#: What is said of a number of rows in a batch that nobody gave.
ASSUMED = "assumed: give batch_size if it was another"
#: Decisions that fall otherwise, if nobody knows the right ones. Batches of 32 rows change one in
#: twenty by chance.
OTHERS, VERY_OTHERS = 0.1, 0.3
#: The same for plain values, in their own standard deviations.
MOVED, VERY_MOVED = 0.5, 1.0


class Verdict(NamedTuple):
    """Whether one way of running a model is worse than another.

    Attributes:
        level: "" (no), "warning" or "error".
        evidence: in a sentence, without its full stop.
    """

    level: str
    evidence: str


class Skill(NamedTuple):
    """A run beside a model that guesses.

    Attributes:
        loss: the loss of the run.
        fixed: the loss of the guess.
        accuracy: of each output with a crossentropy.
        better: whether the run does clearly better.
        worse: whether it does clearly worse.
    """

    loss: float
    fixed: float
    accuracy: dict[str, float]
    better: bool
    worse: bool


class Modes:
    """The outputs of a model by its moving statistics, by the batch, and by all rows."""

    def __init__(self, model: keras.Model, runs: Runs, *, assumed: bool) -> None:
        """Take the model and its runs; `assumed` if nobody gave the size of a batch."""
        self._model, self._runs, self._assumed = model, runs, assumed
        self._scores = Scores(model)
        self._lost, self._hit, self._cut = {}, {}, {}

    @functools.cached_property
    def lacking(self) -> str | None:
        """Why the targets cannot tell which mode is better; None if they can."""
        if self._runs.sample.y is None:
            return "no targets were given"
        if self._scores.lacking is not None:
            return self._scores.lacking
        if not self._scores.has_loss:
            return "the model computes its loss by itself"
        if len(self.comparable) < len(keras.tree.flatten(self._runs.pooled.outputs)):
            return "not every output has a row for each row of the data"
        return self.unusable

    @functools.cached_property
    def unusable(self) -> str | None:
        """Why targets that were given, and a loss, still tell nothing; None if they can be used."""
        if self._runs.sample.y is None or not self._scores.has_loss:
            return None
        if self._runs.sample.weighted:
            return WEIGHTED
        start = "the compiled loss cannot be computed on these targets:"
        try:
            losses, _ = self.loss(self._runs.pooled)
        except Exception as error:  # whatever a foreign loss raises
            return f"{start} {first_line(error)}"
        if not np.all(np.isfinite(losses)) and _all_finite(self._runs.pooled):
            return f"{start} it is {losses[~np.isfinite(losses)][0]:g} where outputs are finite"
        return None

    @functools.cached_property
    def comparable(self) -> tuple[int, ...]:
        """The numbers of the outputs that have a row for each row of the data in every run."""
        runs = self._runs.pooled, self._runs.inference, self._runs.training, self._runs.parts[0]
        leaves = [list(map(np.asarray, keras.tree.flatten(run.outputs))) for run in runs]
        if len(set(map(len, leaves))) > 1:
            return ()
        return tuple(
            number
            for number, (whole, *others) in enumerate(zip(*leaves, strict=True))
            if (whole.dtype.kind in "biufc" or whole.dtype.name == "bfloat16")
            and whole.size
            and all(
                leaf.shape == (len(run.rows), *whole.shape[1:])
                for run, leaf in zip(runs, (whole, *others), strict=True)
            )
        )

    @property
    def judged(self) -> bool:
        """Whether the targets tell which mode is better."""
        return self.lacking is None

    @functools.cached_property
    def stale(self) -> Verdict:
        """Inference against the statistics of all rows: what recalibration would mend."""
        return self._compared(self._runs.inference, self._runs.pooled)

    @functools.cached_property
    def apart(self) -> Verdict:
        """Inference against the batches of training: what the user sees."""
        return self._compared(self._runs.inference, self._runs.training)

    @functools.cached_property
    def incurable(self) -> Verdict:
        """The statistics of all rows against the batches of training: what would remain."""
        return self._compared(self._runs.pooled, self._runs.training)

    @property
    def curable(self) -> bool:
        """Whether recalibration brings inference nearer to the batches of training."""
        rest, apart = (LEVELS.index(each.level) for each in (self.incurable, self.apart))
        return rest < max(apart, 1)

    @property
    def why_unknown(self) -> str:
        """Why nobody can tell which mode is right, in words that follow a semicolon."""
        if not self.judged:
            return self.lacking
        return "on the targets given, inference does no better than guessing"

    @property
    def sound(self) -> bool:
        """Whether the targets show that inference does as well as batch mode.

        Two modes of guessing are alike too, and show nothing.
        """
        return self.judged and not self.harm and self._skilled(self._runs.inference)

    @functools.cached_property
    def harm(self) -> bool:
        """Whether the targets show that inference does worse than batch mode."""
        if not self.judged:
            return False
        if self.stale.level or self.apart.level:
            return True
        return self._skilled(self._runs.pooled) and not self._skilled(self._runs.inference)

    def _skilled(self, run: Run) -> bool:
        return self.guess is None or self.against_guess(run).better

    @functools.cached_property
    def finite(self) -> bool:
        """Whether all outputs at inference are numbers."""
        return _all_finite(self._runs.inference)

    def loss(self, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """The compiled loss of parts of the rows of a run, and how many rows each part has."""
        if run not in self._lost:  # a call of a loss costs more than a run of a small model
            self._lost[run] = self._scores.losses(self._runs.targets(run), run.outputs)
        return self._lost[run]

    def hits(self, run: Run) -> dict[str, np.ndarray]:
        """For each output with a crossentropy, the share of right decisions in each row."""
        if run not in self._hit:
            self._hit[run] = self._scores.hits(self._runs.targets(run), run.outputs)
        return self._hit[run]

    @functools.cached_property
    def decisions(self) -> list[Decision]:
        """What each output decides."""
        return decisions(self._model, [self._runs.inference.outputs, self._runs.pooled.outputs])

    @functools.cached_property
    def guess(self) -> Run | None:
        """A model that does not look at its inputs: all classes alike, or the mean of the targets.

        Classes that are rare in these rows may be frequent elsewhere, so they are not counted.
        None where no output has a target of its own.
        """
        run, found = self._runs.pooled, []
        made = keras.tree.flatten(run.outputs)
        wanted = self._scores.targets(self._runs.targets(run), run.outputs)
        if all(y is None for y in wanted):
            return None
        for decision, outputs, y in zip(self.decisions, made, wanted, strict=True):
            answer = 0.0  # logits, or an output without a loss
            if decision.kind == "values" and y is not None:
                y = np.asarray(y, "float64")
                if y.size != outputs.size:
                    return None
                channels = outputs.shape[-1] if outputs.ndim > 1 else 1
                answer = y.reshape(-1, channels).mean(axis=0)
            elif outputs.min() >= 0 and outputs.max() <= 1:
                answer = self._chance(decision)
            found.append(np.full(outputs.shape, answer, "float32"))
        outputs = keras.tree.pack_sequence_as(self._runs.pooled.outputs, found)
        return Run(self._runs.pooled.rows, outputs)

    def against_guess(self, run: Run) -> Skill:
        """How a run of all rows does beside `guess`, which must not be None."""
        (lost, rows), (least, _) = self.loss(run), self.loss(self.guess)
        loss, fixed = (float(np.average(each, weights=rows)) for each in (lost, least))
        error = SIGMAS * np.std(lost - least) / np.sqrt(max(1, len(lost) - 1))
        hits = self.hits(run)
        above = any(
            hits[each.output].mean() > self._above_chance(each, len(hits[each.output]))
            for each in self.decisions
            if each.output in hits
        )
        worse = loss > fixed + max(error, (MUCH_WORSE if above else WORSE) * abs(fixed))
        return Skill(
            loss,
            fixed,
            {name: float(each.mean()) for name, each in hits.items()},
            better=bool(not worse and (above or loss < fixed - error)),
            worse=bool(worse),
        )

    def _chance(self, decision: Decision) -> float:
        """The share of decisions that come out right by guessing."""
        outputs = keras.tree.flatten(self._runs.pooled.outputs)
        number = [each.output for each in self.decisions].index(decision.output)
        return 1 / outputs[number].shape[-1] if decision.kind == "classes" else 0.5

    def _above_chance(self, decision: Decision, rows: int) -> float:
        """What guessing does not reach in so many rows."""
        chance = self._chance(decision)
        return chance + SIGMAS * float(np.sqrt(chance * (1 - chance) / rows))

    def numbers(self) -> str:
        """Accuracy and loss in all three ways."""
        ways = [
            (self._runs.inference, "with the moving statistics"),
            (self._runs.training, f"in {self._batches}"),
        ]
        if len(self._runs.training.batches) > 1:
            whole = f"with the statistics of all {self._runs.sample.rows:,} rows as one batch"
            ways.append((self._runs.pooled, whole))
        hits = [self.hits(run) for run, _ in ways]
        parts = []
        for output in hits[0]:
            name = f"accuracy of {output}" if len(self.decisions) > 1 else "accuracy"
            parts.append(
                name
                + " "
                + ", ".join(
                    f"{each[output].mean():.1%} {way}"
                    for each, (_, way) in zip(hits, ways, strict=True)
                )
            )
        losses = [np.average(each, weights=rows) for each, rows in (self.loss(r) for r, _ in ways)]
        if parts:
            parts.append("loss " + ", ".join(f"{each:.3g}" for each in losses))
        else:
            parts.append(
                "loss "
                + ", ".join(
                    f"{each:.3g} {way}" for each, (_, way) in zip(losses, ways, strict=True)
                )
            )
        text = "; ".join(parts)
        return text[0].upper() + text[1:]

    @property
    def _batches(self) -> str:
        size = max(self._runs.sample.sizes)
        return f"batches of {size:,} " + (f"({ASSUMED})" if self._assumed else "as in fit")

    def _compared(self, one: Run, two: Run) -> Verdict:
        """Whether `one` is worse than `two`, or, where nobody can tell, another."""
        if not np.array_equal(one.rows, two.rows):
            one = self._at(one, two)
        return self._worse(one, two) if self.judged else self._other(one, two)

    def _at(self, run: Run, other: Run) -> Run:
        """A run of all rows, in those of another."""
        if (run, other) not in self._cut:
            leaves = keras.tree.flatten(run.outputs)
            for number in self.comparable:
                leaves[number] = np.asarray(leaves[number])[other.rows]
            outputs = keras.tree.pack_sequence_as(run.outputs, leaves)
            self._cut[run, other] = Run(other.rows, outputs)
        return self._cut[run, other]

    def _worse(self, one: Run, two: Run) -> Verdict:
        (lost, rows), (least, _) = self.loss(one), self.loss(two)
        before, after = (float(np.average(each, weights=rows)) for each in (least, lost))
        if not np.isfinite(after) or not np.isfinite(before):
            return Verdict("error" if np.isfinite(before) else "", "")
        gap = lost - least
        sure = after - before > SIGMAS * np.std(gap) / np.sqrt(max(1, len(gap) - 1)) + 1e-12
        hits, levels = (self.hits(one), self.hits(two)), [""]
        for name in hits[0]:
            drop = hits[1][name] - hits[0][name]
            clear = drop.mean() > SIGMAS * drop.std() / np.sqrt(len(drop))
            limits = [clear and drop.mean() > limit for limit in (LOST, VERY_LOST)]
            levels.append(LEVELS[sum(limits)])
        larger = after - before
        if hits[0]:
            levels.append("warning" if sure and larger > 0.5 * abs(before) + 0.1 else "")
        elif sure and larger > RELEVANT * self._scale:
            levels.append(LEVELS[sum(larger > limit * abs(before) for limit in (LARGER, TWICE))])
        return Verdict(max(levels, key=LEVELS.index), self.numbers())

    @functools.cached_property
    def _scale(self) -> float:
        """What the mean of the targets loses as a prediction; 0 if it is not known."""
        if self.guess is None:
            return 0.0
        losses, rows = self.loss(self.guess)
        return float(np.average(losses, weights=rows))

    def _other(self, one: Run, two: Run) -> Verdict:
        verdicts = []
        for number in self.comparable:
            decision = self.decisions[number]
            names = [keras.tree.flatten(run.outputs)[number] for run in (one, two)]
            share, evidence = _apart(decision, *map(np.asarray, names))
            noise = self._runs.noise(
                np.array([_apart(decision, *self._part(part, number))[0]])
                for part in self._runs.parts
            )
            limits = (MOVED, VERY_MOVED) if decision.kind == "values" else (OTHERS, VERY_OTHERS)
            level = LEVELS[sum(share > max(limit, SIGMAS * noise) for limit in limits)]
            verdicts.append(Verdict(level, evidence))
        none = Verdict("", "")
        return max(verdicts, key=lambda verdict: LEVELS.index(verdict.level), default=none)

    def _part(self, part: Run, number: int) -> tuple[np.ndarray, np.ndarray]:
        whole = keras.tree.flatten(self._runs.pooled.outputs)[number]
        return np.asarray(whole)[part.rows], np.asarray(keras.tree.flatten(part.outputs)[number])


def _apart(decision: Decision, one: np.ndarray, two: np.ndarray) -> tuple[float, str]:
    """How far two outputs for the same rows are apart, and that in words."""
    if decision.kind == "values":
        exact = "complex128" if two.dtype.kind == "c" else "float64"
        one, two = one.astype(exact), two.astype(exact)
        spread = np.sqrt(np.mean(np.abs(two - two.mean(axis=0)) ** 2)) + 1e-12
        share = float(np.sqrt(np.mean(np.abs(one - two) ** 2)) / spread)
        return share, f"{decision.output} differs by {short(share)} of its own standard deviation"
    picked = decision.of(one), decision.of(two)
    changed = float(np.mean(picked[0] != picked[1]))
    if decision.kind == "classes":
        return changed, f"{decision.output} picks another class in {changed:.0%} of all cases"
    # Of rare detections all may be lost in few rows: measured as if half of the rows were above.
    above = float(np.mean(picked[0] | picked[1]))
    share = changed / (2 * min(0.5, above)) if above else 0.0
    return share, (
        f"{decision.output} falls on the other side of {decision.threshold:g} in {changed:.1%} of "
        f"all cases ({np.mean(picked[1]):.1%} are above it by the batch)"
    )


def _all_finite(run: Run) -> bool:
    return all(map(_finite, keras.tree.flatten(run.outputs)))


def _finite(leaf: Any) -> bool:
    leaf = np.asarray(leaf)
    return leaf.dtype.kind not in "fc" or bool(np.all(np.isfinite(leaf)))
