"""Trials of the rules of `audit`: small models with one fault, or with none.

Each module of rules has a module of trials, `test_rules_<name>.py`, of four kinds:

- "sick": a model with the fault; the rule reports it at the level that is given.
- "mended": the same model without the fault; the rule is silent or says no more than a note.
- "sound": a look-alike that is as it should be.
- "followed": the repair that the report gives, carried out by code on a sick model. The symptom,
  a number that the user sees, is there before and gone after, and so is the finding.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bnutils._keras import keras
from bnutils.doctor.audit import audit
from bnutils.doctor.graph import batch_norms
from bnutils.doctor.recalibrate import recalibrate
from bnutils.doctor.rules import RULES, Case, Finding
from bnutils.doctor.rules.case import LEAST_ROWS
from bnutils.doctor.subject import Subject

layers = keras.layers
BN = layers.BatchNormalization


def found(report, rule):
    return [each for each in report.diagnoses if each.rule == rule]


def worst(report, rule):
    levels = {each.level for each in found(report, rule)}
    return next((level for level in ("error", "warning", "note") if level in levels), None)


def crashed(report):
    return [each for each in report.skipped if "crashed" in each.reason]


NOUNS = "layer|row|channel|value|position|update|replica|trainable weight"
#: A number and a noun that do not agree, a value that was not there, and marks out of place. The
#: shape of a tensor, as in (None, 8), is none of these.
UNSAID = re.compile(
    rf"(?<![\d.,])1 ({NOUNS})s\b|(?<![\d.,])(?!1 )[\d,]*\d ({NOUNS})\b|"
    r"\bNone\b(?!, \d|\))| {2}| [.,;:]|\.\.|<\w"
)

#: How a sentence may begin in lower case.
BY_NAME = ("fit ", "predict ", "evaluate ", "get_weights ", "recalibrate(")


def check_told(subject, found, levels):
    """A finding names a part of the model, and says all it has to say in whole sentences."""
    assert found.layer in ("", *subject.paths.values()), found
    assert found.level in levels, found
    for text in (found.evidence, found.why, found.repair):
        assert text.endswith((".", ".)")), text
        assert not UNSAID.search(text.replace(" [...]", "")), text
    for text in (found.why, found.repair):
        assert text[0].isupper() or text.startswith(BY_NAME), text


CHAPTERS = {path.stem for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")}


def told(rule, model, data=None, **given):
    """The findings of one rule by itself; what it needs data for only if there are some."""
    subject = Subject(model)
    case = Case(subject, data, **given)
    enough = (case.rows or 0) >= LEAST_ROWS
    made = []
    for one in RULES:
        if one.name == rule and (enough or "data" not in one.needs):
            assert one.chapter in CHAPTERS
            for each in one.check(case):
                if isinstance(each, Finding):
                    check_told(subject, each, one.levels)
                made.append(each)
    return made


def built(build):
    keras.utils.set_random_seed(0)
    return build()


@functools.cache
def reported(build):
    """What the audit says of the model and arguments that a function gives."""
    model, given = built(build)
    report, subject = audit(model, **given), Subject(model)
    for each in report.diagnoses:
        levels = [level for rule in RULES if rule.name == each.rule for level in rule.levels]
        check_told(subject, each, levels)
    return report


@dataclass(frozen=True)
class Trial:
    """A function that gives `(model, arguments of audit)`, and what the rule says to that."""

    rule: str
    kind: str
    level: str | None
    build: object

    def run(self):
        report = reported(self.build)
        assert worst(report, self.rule) == self.level, report
        assert not crashed(report)


@dataclass(frozen=True)
class Followed(Trial):
    """A repair: a function of a sick model and the arguments of audit that gives both mended."""

    sick: object
    says: str
    symptom: object
    limit: float

    def run(self):
        repairs = [each.repair for each in found(reported(self.sick), self.rule)]
        assert any(self.says in repair for repair in repairs), repairs
        model, given = built(self.sick)
        before = self.symptom(model, given)
        mended, given = self.build(model, given)
        after = self.symptom(mended, given)
        assert before > self.limit >= after, (before, after)
        report = audit(mended, **given)
        assert worst(report, self.rule) == self.level, report


class Trials:
    """The trials of some modules of rules."""

    def __init__(self, *modules):  # noqa: D107
        names = {module.__name__ for module in modules}
        self.rules = [rule for rule in RULES if rule.check.__module__ in names]
        self.all = []

    def __call__(self, rule, kind, level=None):
        """Make a trial of a function that gives `(model, arguments of audit)`."""

        def register(build):
            self.all.append(Trial(rule, kind, level, build))
            return build

        return register

    def followed(self, rule, sick, *, says, symptom, limit=0, level=None):
        """Make a trial of a repair: a function (model, arguments of audit) -> both mended.

        Args:
            rule: the rule that gives the repair.
            sick: a function that gives `(model, arguments of audit)`.
            says: words of the repair that the function carries out.
            symptom: a function (model, arguments) -> a number, above `limit` where there is
                something to mend.
            limit: see `symptom`.
            level: what the rule says when all is done.
        """

        def register(build):
            self.all.append(Followed(rule, "followed", level, build, sick, says, symptom, limit))
            return build

        return register

    @property
    def parameters(self):
        return [
            pytest.param(each, id=f"{each.rule}-{each.kind}-{each.build.__name__}")
            for each in self.all
        ]

    def check_complete(self, nothing_to_follow=(), elsewhere=()):
        """Check that every rule of the module has trials of all kinds and all its levels.

        Args:
            nothing_to_follow: for the rules without a repair that code could carry out, the
                reason.
            elsewhere: (rule, kind or level) that a test of its own looks at.
        """
        missing = []
        for rule in {rule.name: rule for rule in self.rules}.values():
            mine = [each for each in self.all if each.rule == rule.name]
            kinds = {each.kind for each in mine}
            declared, possible = (
                {level for part in parts if part.name == rule.name for level in part.levels}
                for parts in (self.rules, RULES)
            )
            levels = {each.level for each in mine} - {None}
            assert levels <= possible, (rule.name, levels)
            wanted = {"sick", "mended", "sound", *declared}
            wanted |= set() if rule.name in nothing_to_follow else {"followed"}
            missing += [(rule.name, each) for each in wanted - kinds - levels]
            if rule.name in nothing_to_follow:
                assert "followed" not in kinds, rule.name
        assert sorted(missing) == sorted(elsewhere)
        assert {each.rule for each in self.all} <= {rule.name for rule in self.rules}


# Data and small models


def rows(n=256, features=8, mean=0.0, sd=1.0, seed=0):
    x = np.random.default_rng(seed).normal(mean, sd, (n, features))
    return x.astype("float32")


def labels(x):
    return (x[:, 0] > x[:, 0].mean()).astype("int32")


def train(model, x, y, **options):
    """Fit. The optimizer is built before: `fit` builds it too, and then traces its step twice."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.fit(x, y, verbose=0, **options)


def chain(*stack, shape=(8,), loss=None, optimizer="adam", name="chain"):
    model = keras.Sequential([keras.Input(shape), *stack], name=name)
    if loss:
        model.compile(optimizer, loss)
    return model


def classifier(**bn):
    return chain(
        layers.Dense(16, use_bias=False),
        BN(name="bn", **bn),
        layers.ReLU(),
        layers.Dense(2, activation="softmax"),
        loss="sparse_categorical_crossentropy",
    )


def settle(model, x):
    """Give a model moving statistics that suit the data, as after long training."""
    recalibrate(model, x)
    return model


def with_base(bn=None, **call):
    base = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, use_bias=False), bn or BN(name="bn"), layers.ReLU()],
        name="base",
    )
    inputs = keras.Input((8,))
    outputs = layers.Dense(2)(base(inputs, **call))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class Head(keras.Model):
    """A head on a base that is always called in inference mode."""

    def __init__(self):  # noqa: D107
        super().__init__()
        self.base = keras.Sequential([keras.Input((8,)), layers.Dense(4), BN(), layers.ReLU()])
        self.head = layers.Dense(1)

    def call(self, x, training=None):
        return self.head(self.base(x, training=False))


def subclassed():
    model = Head()
    model(rows(2))
    model.compile("sgd", "mse")
    return model


def fitted(model):
    x = rows(32)
    train(model, x, labels(x))
    return model


@functools.cache
def task():
    """Two classes that the sum of the features tells apart, away from zero."""
    x = rows(512, mean=4.0)
    return x, (x.sum(axis=1) > x.sum(axis=1).mean()).astype("int32")


@functools.cache
def _training(momentum, epochs):
    keras.utils.set_random_seed(0)
    model = classifier(momentum=momentum)
    model.optimizer.learning_rate = 0.01
    x, y = task()
    train(model, x, y, batch_size=32, epochs=epochs)
    return model.get_weights(), int(model.optimizer.iterations.numpy())


def trained(momentum, epochs):
    """A model after so many epochs, as loaded from a file."""
    weights, iterations = _training(momentum, epochs)
    model = classifier(momentum=momentum)
    model.set_weights(weights)
    model.optimizer.iterations.assign(iterations)
    return model


# What a user sees


def error_rate(model, given):
    """The share of rows that `predict` puts into the wrong class."""
    x, y = given["data"]
    return float(np.mean(np.argmax(model.predict(x, verbose=0), axis=-1) != y))


def not_finite(model, given):
    """The share of numbers in the predictions for random rows that are NaN or infinite."""
    return float(np.mean(~np.isfinite(model.predict(rows(16), verbose=0))))


def constant_predictions(model, given):
    """1 if the model answers the same to every row."""
    return float(np.ptp(model.predict(task()[0][:32], verbose=0), axis=0).max() < 1e-3)


def changed_by_a_step(model, given, weights=None):
    """How far one step of fit moves the moving statistics, or other weights."""
    watched = [layer.moving_mean for layer in batch_norms(model)] if weights is None else weights
    before = [variable.numpy() for variable in watched]
    x, y = given.get("data", (rows(32), labels(rows(32))))
    model.fit(x[:32], y[:32], verbose=0)  # data of another form would be traced anew
    after = [variable.numpy() for variable in watched]
    return max(float(np.max(np.abs(a - b))) for a, b in zip(after, before, strict=True))


def unchanged_by_a_step(model, given):
    """1 if a step of fit changes no weight at all."""
    return float(changed_by_a_step(model, given, model.weights) == 0)


def distance(model, given):
    """How far moving means are from the means of the data: the farthest channel, in sd."""
    x = given.get("data", (task()[0],))[0]
    far = 0.0
    for layer in batch_norms(model):
        inputs = keras.Model(model.inputs, layer.input).predict(x, verbose=0)
        inputs = inputs.reshape(-1, inputs.shape[-1])
        gap = np.abs(layer.moving_mean.numpy() - inputs.mean(0)) / (inputs.std(0) + 1e-6)
        far = max(far, float(gap.max()))
    return far


def depends_on_the_batch(model, given):
    """How far the answer for a row moves, in sd, if it is asked for alone."""
    x = given["data"][0][:16]
    whole = model.predict_on_batch(x)
    alone = np.concatenate([model.predict_on_batch(row[None]) for row in x])
    return float(np.sqrt(np.mean((whole - alone) ** 2)) / whole.std())
