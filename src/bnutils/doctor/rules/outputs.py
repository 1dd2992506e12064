"""Rules on what comes out: inference against batch mode, batches of like rows, mere guessing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bnutils.doctor.results import Skipped
from bnutils.doctor.rules.case import Case
from bnutils.doctor.rules.modes import ASSUMED, LEVELS
from bnutils.doctor.rules.outliers import outliers
from bnutils.doctor.rules.registry import Finding, rule
from bnutils.doctor.rules.runs import Run, pooled
from bnutils.doctor.rules.statistics import OLD
from bnutils.doctor.words import count, listing

FEW = 4  # rows, up to which a batch is normalized by hardly more than each row itself
#: Of the variance of what reaches a layer this share lies between batches, and so many times the
#: share that random batches have. In random batches of n rows it is 1 / n.
ALIKE, TIMES = 0.1, 5.0
FEWEST_BATCHES = 4
#: Who loses more than half of what guessing loses has not shown that like batches did no harm.
HALF = 0.5
SETTLED = 100  # updates, before which a model need not predict better than by guessing


@rule(
    "modes-disagree", levels="error warning", chapter="06_training_and_inference", needs=("data",)
)
def modes_disagree(case: Case) -> Iterator[Finding | Skipped]:
    """Inference does worse than batch mode, by the targets, or decides otherwise."""
    found = list(_disagreement(case))
    if not found and case.learners and case.modes.unusable:
        found = [Skipped("modes-disagree", case.modes.unusable, "rule")]
    yield from found


def _disagreement(case: Case) -> Iterator[Finding | Skipped]:
    if not case.learners or any(map(case.fresh, case.learners)) or not case.modes.finite:
        return  # of a model that is not trained no agreement is expected
    modes = case.modes
    if not modes.comparable:
        yield Skipped(
            "modes-disagree",
            "no output of the model has a row of numbers for each row of the data",
            "rule",
        )
        return
    stale, apart, rest = modes.stale, modes.apart, modes.incurable
    if not modes.judged and not (case.batch_size and apart.level == "error"):
        apart = rest = stale  # batches of any size decide a little otherwise
    level = max(stale.level, apart.level, key=LEVELS.index)
    if not level:
        return
    if modes.judged:
        condition, evidence = "", modes.numbers()
    else:
        condition = "If these rows, and their batches, are like those of training: "
        by = "of all rows as one batch" if stale.level else "of each batch of training"
        evidence = (
            f"With the statistics {by} in the place of the moving ones, "
            f"{(stale if stale.level else apart).evidence}"
        )
        if not any(case.old_share(layer) > OLD for layer in case.learners):
            level = "warning"  # the model may be wrong, or the rows
    repairs = []
    if stale.level and (apart is stale or modes.curable):
        repairs.append("Call recalibrate(model, x_train) and look again.")
    if rest.level and apart is not stale:
        repairs.append(_other_cure(case, bool(repairs)))
    evidence = f"{evidence} ({case.rows:,} rows used, dropout off)."
    if modes.unusable:
        evidence += f" Which is right is not known: {modes.unusable}."
    extreme = outliers(case, case.learners)
    if extreme:
        evidence += f" {extreme.evidence}"
        repairs.insert(0, extreme.repair)
    yield Finding(
        level,
        "",
        evidence,
        "fit shows you the one mode, evaluate and predict use the other.",
        condition + " ".join(repairs),
    )


def _other_cure(case: Case, partly: bool) -> str:
    """What helps where the statistics of all rows do no better."""
    size = max(case.runs.sample.sizes)
    start = "That does not mend all of it: " if partly else "To recalibrate would not mend it: "
    learnt = "has learnt" if case.modes.judged else "may have learnt"
    assumed = f" ({ASSUMED})" if case.batch_size is None else ""
    if _alike(case):
        return (
            f"{start}the batches hold rows that are alike, and the model {learnt} to count on "
            "that (see alike-batches). Mix the rows of each batch and train on."
        )
    single = [case.path(layer) for layer in case.learners if case.positions(layer) == 1]
    if size == 1 and single:
        return (
            f"{start}in batches of one row the output of {listing(single)} is beta whatever the "
            "input, so that what stands before is not used (see batch-of-one). Train anew with "
            "more rows in a batch, or with LayerNormalization."
        )
    if size == 1:
        return (
            f"{start}each row is normalized by itself in training, and the model {learnt} to "
            "count on that. Put GroupNormalization(groups=-1) with the same gamma and beta in the "
            "place of each BatchNormalization behind a convolution: it does at inference what "
            "batches of one image do in training. Or train on with larger batches."
        )
    if size <= FEW:
        return (
            f"{start}the model {learnt} to count on the statistics of {size} rows. Train on with "
            "larger batches, or with GroupNormalization in the place of each BatchNormalization; "
            f"if you mean it to see {size} rows at once at inference too, call it with "
            "training=True."
        )
    found = "do better than" if case.modes.judged else "give other outputs than"
    return (
        f"{start}batches of {count(size, 'row')}{assumed} {found} any fixed statistics. Look for "
        "what the rows of a batch share, and mix them; or train on with larger batches."
    )


@rule("alike-batches", levels="warning note", chapter="07_batch_size", needs=("data",))
def alike_batches(case: Case) -> Iterator[Finding]:
    """Batches whose rows are alike: sorted by class, or cut from one video."""
    found = _alike(case)
    if found is None:
        return
    path, share, mixed = found
    modes, poor = case.modes, ""
    if modes.sound and modes.guess is not None:
        skill = modes.against_guess(case.runs.inference)
        if skill.loss > HALF * skill.fixed > 0:
            poor = (
                f" On the targets given the model loses {skill.loss:.3g} at inference, and "
                f"guessing {skill.fixed:.3g}: in such batches it may have learnt little."
            )
    harmless = modes.sound and not poor
    yield Finding(
        "note" if harmless else "warning",
        "",
        f"In front of {path}, {share:.0%} of the variance lies between the batches "
        f"({count(len(case.runs.training.batches), 'batch', 'batches')} of "
        f"{count(max(case.runs.sample.sizes), 'row')}), {mixed:.1%} with the rows mixed: the rows "
        f"of a batch are alike.{poor}",
        "Each batch is normalized by itself, so training takes away what its rows share; at "
        "inference it is there.",
        "On the targets given, inference does as well as batch mode: nothing to mend, unless fit "
        "gets these batches."
        if harmless
        else "If fit gets these batches, mix the rows: shuffle before batch(n), with a buffer that "
        "spans the classes or videos, then train on. If they are only put in order for the audit, "
        "give rows in random order.",
    )


def _alike(case: Case) -> tuple[str, float, float] | None:
    """The layer whose inputs differ most between batches, and the shares of variance."""
    runs = case.runs
    if (
        runs.sample.shuffled
        or len(runs.sample.sizes) < FEWEST_BATCHES
        or max(runs.sample.sizes) < 2
    ):
        return None
    in_order, mixed = _between(runs.training), _between(runs.mixed)
    found = [
        (case.path(layer), in_order[layer], mixed[layer])
        for layer in case.learners
        if layer in in_order
        and in_order[layer] - mixed[layer] > ALIKE
        and in_order[layer] > TIMES * mixed[layer]
    ]
    return max(found, key=lambda each: each[1], default=None)


def _between(run: Run) -> dict:
    """For each layer the share of the variance that lies between batches, median of channels."""
    shares = {}
    for layer in run.batches[0]:
        parts = [pooled(batch[layer]) for batch in run.batches]
        whole = pooled(parts)
        count = np.stack([part.count for part in parts])
        within = np.sum(count * np.stack([part.variance for part in parts]), axis=0)
        live = whole.variance * whole.count > 0
        if np.any(live):
            total = (whole.variance * whole.count)[live]
            shares[layer] = float(np.median(1 - within[live] / total))
    return shares


@rule(
    "no-better-than-guessing",
    levels="note",
    chapter="06_training_and_inference",
    needs=("data",),
)
def no_better_than_guessing(case: Case) -> Iterator[Finding | Skipped]:
    """A trained model that predicts worse than one that does not look, and in no mode better.

    Before training on new rows that is as it should be. Either way such rows give no all-clear.
    """
    modes = case.modes
    trained = any(map(case.trained, case.layers)) and not 0 < (case.updates or 0) < SETTLED
    if not (modes.judged and trained and modes.finite) or modes.guess is None:
        return
    if modes.incurable.level:
        return  # in the batches of training it does better
    runs = {"with the moving statistics": case.runs.inference, "by the batch": case.runs.pooled}
    skills = {way: modes.against_guess(run) for way, run in runs.items()}
    if not skills["with the moving statistics"].worse or skills["by the batch"].better:
        return
    apart = any(_disagreement(case))
    parts = [
        f"{skill.loss:.3g} {way}"
        + "".join(f" (accuracy {each:.1%})" for each in skill.accuracy.values())
        for way, skill in skills.items()
    ]
    classes = any(skill.accuracy for skill in skills.values())
    fixed = skills["by the batch"].fixed
    yield Finding(
        "note",
        "",
        f"The loss is {' and '.join(parts)}; to answer "
        f"{'all classes alike' if classes else 'the mean of these targets'} to every row loses "
        f"{fixed:.3g} ({case.rows:,} rows used).",
        "So the moving statistics are not all that is wrong, or these rows are not like those of "
        "training."
        if apart
        else "So these rows cannot tell whether the moving statistics fit the weights, or whether "
        "anything else is wrong.",
        "If the model is still to be trained on such rows, that is as it should be; to have its "
        "statistics judged, audit it with rows like those of the training it has had. If it was "
        "trained on such rows, check that the weights are those that were trained and stand in "
        "their places, and that inputs are scaled and targets coded as in training."
        + (
            " If its batches were not of 32 rows, give batch_size."
            if case.batch_size is None
            else ""
        ),
    )
    if not apart:
        yield Skipped(
            "modes-disagree",
            "on these rows the model loses more than by guessing, so that they cannot tell",
            "rule",
        )
