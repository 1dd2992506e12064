"""What one training step would change, and freezing that Keras obeys."""

import numpy as np
import pytest

from bnutils._keras import keras, tf
from bnutils.doctor.dry_run import dry_run
from bnutils.doctor.freeze import freeze_bn, unfreeze_bn
from bnutils.doctor.graph import batch_norms
from bnutils.doctor.subject import Subject

layers = keras.layers
optimizers = keras.optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.normal(size=(24, 3)).astype("float32")
STEPS = RNG.normal(size=(24, 2, 4)).astype("float32")
LABELS = RNG.integers(3, size=24)

saves = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FIT = {"batch_size": 8, "verbose": 0, "shuffle": False}


@pytest.fixture(autouse=True)
def _from_the_same_start():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    tf.get_logger().setLevel("ERROR")  # many small models: TensorFlow remarks that it traces often


# Models, each with one or more BN layers and Dense layers around them


def plain(dropout=0.2, **norm):
    inputs = keras.Input((4,))
    h = layers.Dense(5, name="hidden")(inputs)
    h = layers.BatchNormalization(name="bn", **norm)(h)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Dropout(dropout)(h)))


def nested(call_training=None):
    """A base model inside a model, as in fine-tuning; `call_training` fixed at construction."""
    inner = keras.Input((4,))
    base = keras.Model(
        inner, layers.BatchNormalization(name="bn")(layers.Dense(5)(inner)), name="b"
    )
    inputs = keras.Input((4,))
    kwargs = {} if call_training is None else {"training": call_training}
    return keras.Model(inputs, layers.Dense(3, name="head")(base(inputs, **kwargs)))


def time_distributed():
    inputs = keras.Input((2, 4))
    h = layers.TimeDistributed(layers.Dense(5), name="each")(inputs)
    h = layers.TimeDistributed(layers.BatchNormalization(name="bn"), name="td")(h)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(h)))


@keras.saving.register_keras_serializable("test_doctor_freeze")
class Subclass(keras.Model):
    """Its call gives BN an explicit `training`, or passes on what it gets."""

    def __init__(self, fixed=None, **kwargs):  # noqa: D107
        super().__init__(**kwargs)
        self.hidden, self.bn = layers.Dense(5), layers.BatchNormalization(name="bn")
        self.head, self.fixed = layers.Dense(3), fixed

    def call(self, x, training=None):
        training = training if self.fixed is None else self.fixed
        return self.head(self.bn(self.hidden(x), training=training))


class OwnStep(keras.Model):
    """A custom train_step, with a counter and a metric of its own."""

    def __init__(self, *args, **kwargs):  # noqa: D107
        super().__init__(*args, **kwargs)
        self.mean_loss, self.calls = keras.metrics.Mean(name="own"), 0

    @property
    def metrics(self):
        return [self.mean_loss]

    def train_step(self, data):
        x, y = data
        self.calls += 1
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.mean_loss.update_state(loss)
        return {"own": self.mean_loss.result()}


def own_step():
    source = plain()
    return OwnStep(source.inputs, source.outputs)


def two_outputs():
    inputs = keras.Input((4,), name="in")
    h = layers.BatchNormalization(name="bn")(layers.Dense(5)(inputs))
    outputs = {
        "label": layers.Dense(3, name="label", activation="softmax")(h),
        "size": layers.Dense(1, name="size")(h),
    }
    return keras.Model(inputs, outputs)


def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    return plain()


def subclass(fixed=None):
    model = Subclass(fixed)
    model(X[:2])
    return model


KINDS = {
    "plain": (plain, X, Y),
    "nested": (nested, X, Y),
    "TimeDistributed": (time_distributed, STEPS, Y),
    "subclass": (subclass, X, Y),
    "own train_step": (own_step, X, Y),
    "mixed_float16": (mixed_float16, X, Y),
    "two outputs": (two_outputs, X, {"label": LABELS, "size": Y[:, :1]}),
}
LOSSES = {"two outputs": {"label": "sparse_categorical_crossentropy", "size": "mse"}}


def compiled(kind, optimizer="sgd", **settings):
    build, x, y = KINDS[kind]
    model = build()
    model.compile(optimizer, LOSSES.get(kind, "mse"), **settings)
    return model, x, y


def dry(model, *data):
    """The dry run of a model, with inputs and targets or without."""
    return dry_run(Subject(model), data or None)


def learns(run):
    """What moves, as (statistics, gamma, beta) for each layer."""
    return [(step.statistics_moved, step.gamma_moved, step.beta_moved) for step in run.layers]


ALL, NOTHING = [(True, True, True)], [(False, False, False)]


def bn_bits(model):
    return [v.numpy().tobytes() for layer in batch_norms(model) for v in layer.weights]


def bits(model):
    """Everything that is stored in numbers."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else [])]
    for metric in model.metrics:
        variables += metric.variables
    return [(v.path, v.numpy().tobytes()) for v in variables]


def flags(model):
    return [
        (layer.name, layer.trainable, [v.trainable for v in layer.weights])
        for layer in model._flatten_layers()
    ]


def fit(model, x, y):
    """Train. The optimizer is built before: `fit` builds it too, and then traces its step twice."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return model.fit(x, y, **FIT)


def weights_after_fit(model, x, y):
    fit(model, x, y)
    return [v.numpy().tobytes() for v in model.variables]


# The dry run: what it sees


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_learns_unless_bn_is_frozen(kind):
    model, x, y = compiled(kind)
    for data in ((), (x, y)):
        run = dry(model, *data)
        assert learns(run) == ALL
        assert run.how == "train_step of the compiled model"
    batch_norms(model)[0].trainable = False
    assert learns(dry(model, x, y)) == NOTHING


@pytest.mark.parametrize("kind", KINDS)
def test_an_uncompiled_model_is_only_called(kind, monkeypatch):
    build, x, _ = KINDS[kind]
    model = build()
    with monkeypatch.context() as patched:  # no gradient is taken, which can be expensive
        patched.setattr(tf, "GradientTape", None)
        run = dry(model, x)
    assert learns(run) == ALL
    assert run.how == "a call in training mode, since the model is not compiled"
    assert run.trained == {id(v) for v in model.trainable_variables}
    batch_norms(model)[0].trainable = False
    assert learns(dry(model)) == NOTHING
    assert not model.compiled


def test_the_trap_a_flag_that_changes_after_fit_changes_nothing():
    model, x, y = compiled("plain")
    fit(model, x, y)
    layer = model.get_layer("bn")
    layer.trainable = False
    for data in ((), (x,), (x, y)):
        run = dry(model, *data)
        assert learns(run) == ALL
        assert run.how == "train_step of the compiled model, as fit has traced it"
    before = bn_bits(model)
    fit(model, x, y)
    assert all(new != old for new, old in zip(bn_bits(model), before, strict=True))
    # The other way round: compiled frozen, set free later, still frozen.
    model.compile("sgd", "mse")
    fit(model, x, y)
    layer.trainable = True
    before = bn_bits(model)
    assert learns(dry(model)) == NOTHING
    fit(model, x, y)
    assert bn_bits(model) == before


def test_a_flag_that_changes_before_the_first_fit_is_obeyed():
    model, x, y = compiled("plain")
    model.get_layer("bn").trainable = False
    assert learns(dry(model)) == NOTHING
    before = bn_bits(model)
    fit(model, x, y)
    assert bn_bits(model) == before


def test_every_trace_counts():
    """A batch of another form makes Keras trace anew: one model, two decisions."""
    model, x, y = compiled("plain")
    fit(model, x, y)
    model.get_layer("bn").trainable = False
    before = bn_bits(model)
    model.train_on_batch(x[:8], y[:8])
    assert bn_bits(model) == before
    assert learns(dry(model, x, y)) == ALL
    fit(model, x, y)
    assert bn_bits(model) != before


def test_a_dry_run_adds_no_trace():
    model, x, y = compiled("plain")
    fit(model, x, y)
    model.get_layer("bn").trainable = False
    for rows in (1, 5, 24):
        dry(model, x[:rows], y[:rows])
    model.compile("sgd", "mse")
    model.train_on_batch(x[:6], y[:6])
    function = model.train_function
    dry(model, x, y)
    assert model.train_function is function
    model.get_layer("bn").trainable = True
    before = bn_bits(model)
    model.train_on_batch(x[:6], y[:6])  # the old trace is still the one in use
    assert bn_bits(model) == before


def test_training_false_at_construction_is_what_the_installed_keras_makes_of_it():
    model = nested(call_training=False)
    model.compile("sgd", "mse")
    seen = learns(dry(model))
    before = bn_bits(model)
    fit(model, X, Y)
    gamma, beta, mean, variance = (
        new != old for new, old in zip(bn_bits(model), before, strict=True)
    )
    assert seen == [(mean and variance, gamma, beta)]
    if keras.__version__ < "3.16":
        assert seen == ALL  # facts: Keras 3.3 to 3.15 put training=True over it


def test_training_false_in_a_subclass_keeps_the_statistics_only():
    model = subclass(fixed=False)
    model.compile("sgd", "mse")
    assert learns(dry(model)) == [(False, True, True)]
    assert learns(dry(subclass(fixed=False))) == [(False, True, True)]


def test_layers_without_gamma_or_beta_report_none():
    model = plain(scale=False)
    assert learns(dry(model)) == [(True, None, True)]
    model = plain(center=False, momentum=1.0)
    model.compile("sgd", "mse")
    assert learns(dry(model)) == [(False, True, None)]


@pytest.mark.parametrize("fitted", [False, True])
def test_a_learning_rate_or_gradient_of_zero_hides_nothing(fitted):
    model = plain()
    model.get_layer("head").kernel.assign(np.zeros((5, 3)))  # no gradient reaches BN
    model.compile(optimizers.SGD(0.0), "mse")
    if fitted:
        fit(model, X, Y)
    assert learns(dry(model)) == ALL
    model.get_layer("bn").trainable = False
    model.compile(optimizers.SGD(0.0), "mse")
    if fitted:
        fit(model, X, Y)
    assert learns(dry(model)) == NOTHING


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": lambda: optimizers.SGD(0.1, gradient_accumulation_steps=4)},
        {"run_eagerly": True},
        {"jit_compile": True},
        {"steps_per_execution": 3},
        {"metrics": ["mae"], "weighted_metrics": ["mse"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_compile_are_kept(settings):
    settings = dict(settings)
    optimizer = settings.pop("optimizer", lambda: "sgd")()
    model, x, y = compiled("plain", optimizer, **settings)
    for fitted in (False, True):
        if fitted:
            fit(model, x, y)
        before, attributes = bits(model), dict(vars(model))
        assert learns(dry(model)) == ALL
        assert bits(model) == before
        assert vars(model) == attributes
    freeze_bn(model)
    frozen = bn_bits(model)
    history = fit(model, x, y).history
    assert bn_bits(model) == frozen
    expected = ["loss", "mae", "mse"] if "metrics" in settings else ["loss"]
    assert sorted(history) == expected


TARGETS = [
    ("sparse_categorical_crossentropy", "softmax", 3),
    (keras.losses.SparseCategoricalCrossentropy(from_logits=True), None, 3),
    (keras.losses.CategoricalCrossentropy(), "softmax", 3),
    ("crossentropy", "softmax", 3),
    ("binary_crossentropy", "sigmoid", 1),
    (keras.losses.Huber(), None, 2),
    (lambda y, p: keras.ops.mean((y - p) ** 2), None, 2),
]


@pytest.mark.parametrize(("loss", "activation", "units"), TARGETS)
def test_a_target_is_found_for_the_loss(loss, activation, units):
    inputs = keras.Input((4,))
    h = layers.BatchNormalization()(inputs)
    model = keras.Model(inputs, layers.Dense(units, activation=activation)(h))
    model.compile("adam", loss, metrics=["accuracy"])
    run = dry(model)
    assert run.how == "train_step of the compiled model"
    assert learns(run) == ALL
    # What "accuracy" means is left to the first real target.
    assert not model._compile_metrics.built
    assert not model._compile_loss.built


def test_without_a_target_a_call_stands_in():
    def picky(y, p):
        raise TypeError("no target is good enough")

    model = plain()
    model.compile("adam", picky)
    run = dry(model)
    assert learns(run) == ALL
    assert run.how.startswith("a call in training mode, since no target")
    with pytest.raises(ValueError, match=r"targets, .* \(None, 3\): TypeError: .*good enough"):
        dry(model, X, Y)


def test_add_loss_needs_no_target():
    class Own(Subclass):
        def call(self, x, training=None):
            y = super().call(x, training=training)
            self.add_loss(keras.ops.mean(y**2))
            return y

    model = Own()
    model(X[:2])
    model.compile("adam")
    run = dry(model)
    assert learns(run) == ALL
    assert run.how == "train_step of the compiled model"


def test_inputs_are_drawn_in_the_form_the_model_takes():
    words = keras.Input((None,), dtype="int32", name="words")
    image = keras.Input((None, None, 3), name="image", batch_size=3)
    h = layers.GlobalAveragePooling1D()(layers.Embedding(7, 4)(words))
    g = layers.Conv2D(4, 33, padding="valid")(image)  # longer than the first length that is tried
    g = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(g))
    h = layers.BatchNormalization()(h)
    model = keras.Model({"words": words, "image": image}, layers.Add()([h, g]))
    with pytest.raises(ValueError, match="does not take"):
        dry(model)  # 3 images, 2 texts: no one batch suits
    image = keras.Input((None, None, 3), name="image")
    g = layers.Conv2D(4, 33)(image)
    g = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(g))
    model = keras.Model({"words": words, "image": image}, layers.Add()([h, g]))
    model.compile("sgd", "mse")
    assert learns(dry(model)) == ALL * 2
    shapes = {"words": tf.TensorSpec((None, None), "int32")}
    shapes["image"] = tf.TensorSpec((None, None, None, 3))
    x = {"words": np.ones((3, 5), "int32"), "image": np.ones((3, 40, 50, 3), "float32")}
    data = tf.data.Dataset.from_generator(
        lambda: iter([(x, np.zeros((3, 4), "float32"))]),
        output_signature=(shapes, tf.TensorSpec((None, 4))),
    )
    model.fit(data.repeat(), steps_per_epoch=1, verbose=0, shuffle=False)
    run = dry(model)
    assert learns(run) == ALL * 2
    assert "as fit has traced it" in run.how


def test_fitted_on_a_dataset_of_fixed_batches_and_labels():
    model = plain()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensor_slices((X, LABELS, np.ones(24))).batch(12, True)
    model.fit(data, verbose=0, shuffle=False)
    model.get_layer("bn").trainable = False
    assert learns(dry(model)) == ALL
    assert learns(dry(model, X[:5], LABELS[:5])) == ALL


# The dry run: what it refuses


def test_bad_input_is_refused():
    model, x, y = compiled("plain")
    with pytest.raises(ValueError, match="with one row for each"):
        dry(model, x[:4], y[:5])
    with pytest.raises(ValueError, match="row for each example"):
        dry(model, 3.0)
    with pytest.raises(ValueError, match="is not built"):
        dry(keras.Sequential([layers.BatchNormalization()]))
    text = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            layers.StringLookup(vocabulary=["a"]),
            layers.Embedding(3, 2),
        ]
    )
    with pytest.raises(ValueError, match="takes strings"):
        dry(text)
    assert dry(text, np.array(["a", "b"])).layers == ()


def test_an_unbuilt_model_is_built_from_x():
    model = keras.Sequential([layers.Dense(5), layers.BatchNormalization(name="bn")])
    model.compile("sgd", "mse")
    assert learns(dry(model, X)) == ALL
    assert model.built
    assert not model.optimizer.built


# The dry run: what it leaves


METRICS = {"own train_step": None, "two outputs": {"size": "mae"}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_is_left_as_it_was(kind):
    """Training comes out the same with dry runs before and in the middle of it."""
    ends = []
    for looked_at in (False, True):
        keras.utils.set_random_seed(1)
        model, x, y = compiled(kind, metrics=METRICS.get(kind, ["mae"]))
        for _ in range(2):
            if looked_at:
                before, attributes, flagged = bits(model), dict(vars(model)), flags(model)
                optimizer = dict(vars(model.optimizer))
                dry(model, x, y)
                dry(model)
                assert bits(model) == before
                assert vars(model) == attributes
                assert vars(model.optimizer) == optimizer
                assert flags(model) == flagged
            end = weights_after_fit(model, x, y)
        ends.append((end, np.random.rand(), keras.random.normal((2,)).numpy().tobytes()))  # noqa: NPY002
    assert ends[0] == ends[1]


def test_a_train_step_that_is_a_tf_function_goes_on_to_train():
    class Own(OwnStep):
        train_step = tf.function(OwnStep.train_step)

    source = plain()
    model = Own(source.inputs, source.outputs)
    model.compile("sgd")
    for looked_at in (1, 2):
        assert learns(dry(model, X, Y)) == ALL
        before = bits(model)
        model.train_step((tf.constant(X), tf.constant(Y)))
        after = bits(model)
        assert sum(new != old for new, old in zip(after, before, strict=True)) >= 8, looked_at


class Optimizers(OwnStep):
    """Several optimizers, where no attribute is one."""

    def compile(self, keep):
        super().compile()
        both = [optimizers.Adam(), optimizers.SGD(momentum=0.9)]
        self.kept, self.closed = (both, None) if keep else (None, lambda: both)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        weights = self.trainable_variables
        pairs = list(zip(tape.gradient(loss, weights), weights, strict=True))
        for part, optimizer in zip((pairs[:2], pairs[2:]), self.kept or self.closed(), strict=True):
            optimizer.apply_gradients(part)
        return {"loss": loss}


@pytest.mark.parametrize("keep", [True, False])
def test_optimizers_in_a_list_are_seen_and_hidden_ones_by_what_they_move(keep):
    source = plain()
    model = Optimizers(source.inputs, source.outputs)
    model.compile(keep)
    before = bits(model)
    run = dry(model, X, Y)
    assert learns(run) == ALL
    assert len(run.trained) == 6
    assert bits(model) == before
    if keep:
        assert all(int(each.iterations) == 0 and not each.built for each in model.kept)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_everything_is_put_back_after_an_interruption(error):
    class Interrupted(OwnStep):
        armed = False

        def train_step(self, data):
            logs = super().train_step(data)
            self.stop_training = True
            if self.armed:
                raise error("in the middle")
            return logs

    source = plain()
    model = Interrupted(source.inputs, source.outputs)
    model.compile("adam", run_eagerly=True)
    fit(model, X, Y)
    model.armed = True
    before, attributes = bits(model), dict(vars(model))
    with pytest.raises(error, match="in the middle"):
        dry(model, X, Y)
    assert bits(model) == before
    assert vars(model) == attributes
    with pytest.raises(error, match="in the middle"):
        freeze_bn(model, (X, Y))
    assert bits(model) == before
    assert model.get_layer("bn").trainable


# Freezing


@pytest.mark.parametrize(("kind", "fitted"), [("plain", False), *((kind, True) for kind in KINDS)])
def test_frozen_bn_stays_still_while_the_rest_learns(kind, fitted):
    model, x, y = compiled(kind)
    if fitted:
        fit(model, x, y)
    others = [entry for entry in flags(model) if entry[0] != "bn"]
    assert freeze_bn(model, (x, y)).model is model
    assert [entry[:2] for entry in flags(model) if entry[0] != "bn"] == [e[:2] for e in others]
    before = bn_bits(model)
    dense = list(model.trainable_variables)
    values = [v.numpy() for v in dense]
    fit(model, x, y)
    assert bn_bits(model) == before
    assert all((v.numpy() != old).any() for v, old in zip(dense, values, strict=True))
    # And back: the layers learn again, in fit too.
    unfreeze_bn(model)
    fit(model, x, y)
    assert all(new != old for new, old in zip(bn_bits(model), before, strict=True))


def test_training_false_that_keras_ignores_is_mended():
    model = nested(call_training=False)
    model.compile("sgd", "mse")
    freeze_bn(model)
    before = bn_bits(model)
    fit(model, X, Y)
    assert bn_bits(model) == before


def test_an_uncompiled_model_is_frozen_without_compiling_it():
    model = nested()
    freeze_bn(model)
    assert not model.compiled
    assert not batch_norms(model)[0].trainable
    unfreeze_bn(model)
    assert batch_norms(model)[0].trainable


OPTIMIZERS = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "Adam": lambda: optimizers.Adam(optimizers.schedules.CosineDecay(1e-2, 100), amsgrad=True),
    "Nadam": lambda: optimizers.Nadam(1e-2),
    "Adafactor": optimizers.Adafactor,
    "accumulation": lambda: optimizers.Adam(gradient_accumulation_steps=2),
    "average": lambda: optimizers.Adam(use_ema=True, ema_momentum=0.5),
    "loss scale": lambda: optimizers.LossScaleOptimizer(optimizers.AdamW(), initial_scale=8.0),
}


def numbers(optimizer):
    return [v.numpy().tobytes() for v in optimizer.variables]


@saves
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_optimizer_keeps_its_state_bit_for_bit(make, tmp_path):
    model, x, y = compiled("plain", make())
    fit(model, x, y)
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    before, rate = numbers(optimizer), float(optimizer.learning_rate)
    by_name = {v.path: v.numpy().tobytes() for v in optimizer.variables}
    freeze_bn(model)
    assert model.optimizer is optimizer
    assert float(optimizer.learning_rate) == rate
    assert int(inner._iterations.numpy()) == 3
    kept = {v.path: v.numpy().tobytes() for v in optimizer.variables}
    shared = kept.keys() & by_name.keys()
    assert all(kept[path] == by_name[path] for path in shared)
    assert inner._trainable_variables == model.trainable_variables
    unfreeze_bn(model)
    assert numbers(optimizer) == before
    # Frozen, trained, saved and loaded, the optimizer goes on where it was.
    freeze_bn(model)
    fit(model, x, y)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    assert numbers(loaded.optimizer) == numbers(optimizer)


def test_freezing_mid_training_is_what_a_frozen_step_would_have_done():
    """The Dense layers go on exactly as with BN frozen by hand and plain Keras underneath."""
    runs = []
    for by_hand in (True, False):
        keras.utils.set_random_seed(2)
        model, x, y = compiled("plain", optimizers.Adam(1e-2))
        fit(model, x, y)
        if by_hand:
            model.get_layer("bn").trainable = False
            model.compile(model.optimizer, "mse")
        else:
            freeze_bn(model)
        runs.append(weights_after_fit(model, x, y))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", ["Adam", "average", "loss scale", "accumulation"])
def test_unfreezing_teaches_an_optimizer_that_never_knew_gamma(name):
    model = plain()
    model.get_layer("bn").trainable = False
    model.compile(OPTIMIZERS[name](), "mse")
    model.fit(X, Y, **FIT)  # built inside, where Keras names its variables otherwise
    state = {v.path: v.numpy().tobytes() for v in model.optimizer.variables}
    optimizer = model.optimizer
    unfreeze_bn(model)
    assert model.optimizer is optimizer
    now = {v.path: v.numpy().tobytes() for v in optimizer.variables}
    assert all(now[path] == value for path, value in state.items())
    assert len(now) > len(state)
    before = bn_bits(model)
    fit(model, X, Y)
    assert all(new != old for new, old in zip(bn_bits(model), before, strict=True))
    if name == "average":
        assert abs(model.get_layer("bn").gamma.numpy() - 1).max() < 0.1  # not drawn towards 0


def test_unfreezing_restores_exactly_what_was():
    inputs = keras.Input((4,))
    h = layers.BatchNormalization(name="own", trainable=False)(
        layers.Dense(4, name="still")(inputs)
    )
    h = layers.BatchNormalization(name="half")(h)
    model = keras.Model(inputs, layers.Dense(3)(layers.BatchNormalization(name="free")(h)))
    model.get_layer("half").beta.trainable = False
    model.get_layer("still").trainable = False
    model.compile("sgd", "mse")
    before = flags(model)
    freeze_bn(model)
    freeze_bn(model)  # twice is as good as once
    unfreeze_bn(model)
    assert flags(model) == before
    assert learns(dry(model)) == [
        (False, False, False),
        (True, True, False),
        (True, True, True),
    ]


def test_containers_are_left_alone():
    model = time_distributed()
    model.compile("sgd", "mse")
    freeze_bn(model)
    assert model.get_layer("td").trainable
    assert not model.get_layer("td").layer.trainable
    model = nested()
    model.get_layer("b").trainable = False
    model.compile("sgd", "mse")
    before = flags(model)
    freeze_bn(model)
    unfreeze_bn(model)
    assert flags(model) == before
    assert learns(dry(model)) == NOTHING


@saves
def test_after_saving_and_loading_the_layers_are_frozen_and_all_can_be_freed(tmp_path):
    model, x, y = compiled("nested", "adam", metrics=["mae"])
    fit(model, x, y)
    freeze_bn(model)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert learns(dry(loaded)) == NOTHING
    assert weights_after_fit(loaded, x, y) == weights_after_fit(model, x, y)
    unfreeze_bn(loaded)
    assert learns(dry(loaded)) == ALL
    fit(loaded, x, y)


# Freezing in evaluate and predict, and what else holds old flags


def hard_wired(functional):
    """BN called with training=True, whatever the model is told."""
    if not functional:
        return subclass(fixed=True)
    inputs = keras.Input((4,))
    h = layers.BatchNormalization(name="bn")(layers.Dense(5)(inputs), training=True)
    return keras.Model(inputs, layers.Dense(3)(h))


@pytest.mark.parametrize("functional", [True, False])
def test_training_true_in_a_call_does_no_harm_in_a_frozen_layer(functional):
    model = hard_wired(functional)
    model.compile("sgd", "mse", metrics=["mae"])
    fit(model, X, Y)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    if not functional:  # Keras up to 3.15 puts the training=False of predict over a recorded one
        run = dry_run(Subject(model), (X, Y), inference=True)
        assert run.inference == ("bn",)
    done = freeze_bn(model, (X, Y))
    assert done.inference
    before = bn_bits(model)
    for act in (fit, lambda *data: model.evaluate(*data[1:], verbose=0)):
        act(model, X, Y)
        assert bn_bits(model) == before
    together = model.predict(X, verbose=0)
    alone = np.concatenate([model.predict(x[None], verbose=0) for x in X[:4]])
    direct = np.concatenate([model(x[None]).numpy() for x in X[:4]])
    np.testing.assert_allclose(alone, together[:4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(direct, together[:4], rtol=1e-5, atol=1e-6)
    assert bn_bits(model) == before


def test_models_inside_that_were_compiled_and_traced_themselves_trace_anew():
    inner = plain()
    inner.compile("adam", "mse")
    fit(inner, X, Y)
    outer = keras.Sequential([keras.Input((4,)), inner, layers.Dense(3)])
    outer.compile("sgd", "mse")
    done = freeze_bn(outer)
    assert done.retraced == (inner.name,)
    before = bn_bits(outer)
    for model in (inner, outer):
        fit(model, X, Y)
        assert bn_bits(outer) == before
    assert inner.optimizer._trainable_variables == inner.trainable_variables
    assert unfreeze_bn(outer).retraced == ("", inner.name)
    fit(inner, X, Y)
    assert all(new != old for new, old in zip(bn_bits(outer), before, strict=True))


class Traced(Subclass):
    """Its call is a tf.function, which keeps what it has traced."""

    @tf.function
    def call(self, x, training=None):
        return super().call(x, training=training)


def test_a_tf_function_inside_does_not_keep_the_old_flags():
    model = Traced()
    model(X[:2])
    model.compile("sgd", "mse")
    fit(model, X, Y)
    freeze_bn(model, (X, Y))
    before = bn_bits(model)
    fit(model, X, Y)
    assert bn_bits(model) == before
    unfreeze_bn(model, (X, Y))
    fit(model, X, Y)
    assert bn_bits(model) != before


def test_it_can_be_called_in_the_middle_of_a_fit():
    model, x, y = compiled("plain", "adam")
    seen = []

    class Freeze(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(bn_bits(model))
            if epoch == 1:
                freeze_bn(model, (x, y))

    model.fit(x, y, epochs=4, callbacks=[Freeze()], **FIT)
    assert seen[0] != seen[1]
    assert seen[1] == seen[2] == seen[3]


def test_the_result_says_what_was_done():
    inputs = keras.Input((4,))
    h = layers.BatchNormalization(name="still", trainable=False)(inputs)
    h = layers.BatchNormalization(name="free")(layers.Dense(4)(h))
    model = keras.Model(inputs, layers.Dense(3)(h), name="net")
    model.compile("sgd", "mse")
    done = freeze_bn(model, (X, Y))
    assert (done.frozen, done.learned_before, done.learning) == (("still", "free"), ("free",), ())
    assert (done.step, done.inference, done.other_weights_training) == ("train_step", True, 4)
    assert str(done).startswith("Froze 2 batch normalization layers of net: 1 learned before")
    assert "unfreeze_bn(model)" in done._repr_html_()
    told = done.to_dict()
    assert told["frozen"] == ["still", "free"]
    assert "model" not in told
    back = unfreeze_bn(model)
    assert (back.learning, back.frozen) == (("free",), ("still",))
    assert [(each.what, each.reason) for each in back.skipped] == [
        ("still", "frozen before freeze_bn too")
    ]
    assert "still (frozen before freeze_bn too)" in str(back)


def test_a_model_in_which_nothing_else_trains_is_told():
    model, x, y = compiled("plain")
    for layer in model.layers:
        layer.trainable = layer.name == "bn"
    done = freeze_bn(model, (x, y))
    assert done.other_weights_training == 0
    assert "nothing trains" in str(done)


FORMS = {
    "x": lambda: X,
    "(x, y)": lambda: (X, Y),
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(12),
    "generator": lambda: ((X[k : k + 8], Y[k : k + 8]) for k in range(0, 24, 8)),
    "callable": lambda: lambda: [(X[:8], Y[:8])],
}


@pytest.mark.parametrize("form", FORMS)
def test_data_come_in_any_form(form):
    model, _, _ = compiled("plain")
    assert freeze_bn(model, FORMS[form]()).learned_before == ("bn",)
    assert unfreeze_bn(model, FORMS[form]()).learning == ("bn",)


# Models that are trained through their parts


class Contrast(keras.Model):
    """As in the SimCLR example of keras.io: a train_step and no call."""

    def __init__(self, built=True):  # noqa: D107
        super().__init__()
        start = [keras.Input((4,))] if built else []
        self.encoder = keras.Sequential(
            [*start, layers.Dense(5), layers.BatchNormalization(name="bn")], name="enc"
        )

    def train_step(self, data):
        x = tf.concat(tree.flatten(data), 0)
        noise = tf.random.normal(tf.shape(x))
        with tf.GradientTape() as tape:
            first, second = (self.encoder(part, training=True) for part in (x, x + noise))
            loss = tf.reduce_mean((first - second) ** 2)
        weights = self.encoder.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


tree = keras.tree


def pairs():
    """Batches of two structures with different numbers of rows."""
    parts = [tf.data.Dataset.from_tensor_slices(X[:n]).batch(n // 3) for n in (24, 12)]
    return tf.data.Dataset.zip(tuple((part,) for part in parts))


@pytest.mark.parametrize(
    ("built", "fitted", "data"),
    [
        (True, True, lambda: X),
        (True, False, pairs),
        (False, False, lambda: X),
        (False, True, pairs),
    ],
)
def test_a_model_without_call_is_frozen_by_its_train_step(built, fitted, data):
    model = Contrast(built)
    model.compile("adam")
    if fitted:
        model.fit(data(), verbose=0, shuffle=False)
    done = freeze_bn(model, data())
    assert (done.step, done.learned_before, done.learning) == ("train_step", ("enc/bn",), ())
    assert [each.what for each in done.skipped] == ["predict and evaluate"]
    before = bn_bits(model)
    model.fit(data(), verbose=0, shuffle=False)
    assert bn_bits(model) == before
    unfreeze_bn(model)  # in the form that fit has traced
    model.fit(data(), verbose=0, shuffle=False)
    assert bn_bits(model) != before


def test_without_data_a_model_without_call_is_refused_and_its_parts_are_named():
    for act in (freeze_bn, unfreeze_bn):
        model = Contrast()
        model.compile("adam")
        for given in ((), (np.ones((8, 7), "float32"),)):
            with pytest.raises(ValueError, match=r"Or give model\.encoder") as raised:
                act(model, *given)
            assert raised.type is ValueError
            assert model.encoder.layers[1].trainable
        with pytest.raises(ValueError, match="the model is not compiled"):
            act(Contrast(), X)


# The dry run: every weight, and the flags of now against those of the traced step


def names(steps):
    return [f"{step.path}/{step.variable.name}" for step in steps]


def test_the_traced_step_and_the_flags_of_now_are_told_apart_for_all_layers():
    model, x, y = compiled("plain")
    head = model.get_layer("head")
    head.trainable = False
    fit(model, x, y)
    head.trainable = True
    model.get_layer("hidden").trainable = False
    run = dry(model, x, y)
    assert run.step == "traced"
    assert names(run.disobeyed) == ["hidden/kernel", "hidden/bias"]
    assert names(run.left_out) == ["head/kernel", "head/bias"]
    now = dry_run(Subject(model), (x, y), anew=True)
    assert now.step == "train_step"
    assert (now.disobeyed, now.left_out) == ((), ())
    assert {id(v) for v in model.trainable_variables} == now.trained
    assert dry(model).step == "traced"  # the look at a new one has left the old in its place


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_a_model_in_which_nothing_can_train_says_so():
    model, x, y = compiled("plain", optimizers.SGD(0.0))
    run = dry(model, x, y)
    assert run.learning_rate == 0
    assert run.trained
    model.trainable = False
    for fitted in (False, True):
        run = dry(model, x, y)
        assert (run.trained, run.left_out, run.learning) == (frozenset(), (), ())
        if not fitted:
            fit(model, x, y)
    model.trainable = True
    assert len(dry(model, x, y).left_out) == 6


def test_weights_without_a_gradient_are_told():
    class Detached(OwnStep):
        def call(self, x, training=None):
            for layer in self.layers[1:]:
                x = layer(x, training=training) if layer.name == "bn" else layer(x)
                x = keras.ops.stop_gradient(x) if layer.name == "hidden" else x
            return x

    source = plain(dropout=0)
    model = Detached(source.inputs, source.outputs)
    model.compile("sgd")
    run = dry(model, X, Y)
    assert names(run.left_out) == ["hidden/kernel", "hidden/bias"]
    assert [step.connected for step in run.weights] == [False, False, True, True, True, True]


def test_statistics_that_are_written_and_do_not_move():
    for kind in ("NaN", "momentum 1"):
        model, x, y = compiled("plain")
        layer = model.get_layer("bn")
        if kind == "NaN":
            layer.moving_mean.assign(np.full(5, np.nan))
            layer.moving_variance.assign(np.full(5, np.nan))
        else:
            layer.momentum = 1.0
        (step,) = dry(model, x, y).layers
        assert (step.statistics_written, step.statistics_moved) == (True, False)
        fit(model, x, y)
        (step,) = dry(model, x, y).layers
        assert (step.statistics_written, step.statistics_moved) == (True, False)


def test_it_needs_no_global_seed(monkeypatch):
    """Only tf.random.set_seed makes the generator behind tf.random.normal."""
    from tensorflow.python.eager import context

    monkeypatch.delattr(context.context(), "_rng")
    model, x, y = compiled("plain")
    assert learns(dry(model, x, y)) == ALL


# Freezing that fails


class Deaf(layers.BatchNormalization):
    """Updates its statistics whatever `trainable` says."""

    def call(self, inputs, training=None, mask=None):
        if training:
            self.moving_mean.assign(self.moving_mean * 0.5)
            self.moving_variance.assign(self.moving_variance * 0.5)
        return super().call(inputs, training=False, mask=mask)


class Stubborn(OwnStep):
    """Hands gamma to its optimizer whatever `trainable` says."""

    def train_step(self, data):
        gamma = self.get_layer("bn").gamma
        self.optimizer.apply([tf.ones_like(gamma)], [gamma])
        return {"loss": tf.reduce_mean(gamma)}


def deaf():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(3)(Deaf(name="bn")(layers.Dense(5)(inputs))))


def stubborn():
    source = plain()
    return Stubborn(source.inputs, source.outputs)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    ("build", "match"),
    [
        (deaf, r"moving statistics of 'bn' still move"),
        (stubborn, r"gamma or beta of 'bn' is still"),
    ],
)
def test_a_layer_that_does_not_listen_is_named_and_nothing_changes(build, match, fitted):
    model = build()
    model.compile("sgd", "mse")
    if fitted:
        fit(model, X, Y)
    before, flagged, function = bits(model), flags(model), model.train_function
    known = list(getattr(model.optimizer, "_trainable_variables", []))
    with pytest.raises(RuntimeError, match=match):
        freeze_bn(model, (X, Y))
    assert bits(model) == before
    assert flags(model) == flagged
    assert model.train_function is function
    assert model.optimizer._trainable_variables == known
    fit(model, X, Y)


def test_models_without_bn_are_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    for call in (freeze_bn, unfreeze_bn):
        with pytest.raises(ValueError, match="expected a model with batch normalization"):
            call(model)
    with pytest.raises(ValueError, match="is not built"):
        freeze_bn(keras.Sequential([layers.BatchNormalization()]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            (X, np.full((24, 3), "cat")),
            r"targets, text of shape \(None, 3\): \w+: Cast string to float",
        ),
        ((X, [Y, Y]), r"inputs, float32 of shape \(None, 4\) and targets, .* structures"),
        ({"zzz": X}, "expected 1 input by name .*, got 'zzz'"),
    ],
    ids=["text", "two", "name"],
)
def test_data_that_do_not_suit_are_told_with_their_cause(data, says):
    model = plain()
    model.compile("sgd", "mse")
    before = bits(model)
    with pytest.raises(ValueError, match=says) as caught:
        freeze_bn(model, data)
    assert not {"\x1b", "\n"} & set(str(caught.value))
    assert bits(model) == before
    assert model.get_layer("bn").trainable


def test_a_subclass_that_looks_for_another_input_is_told_as_given_data():
    model = Subclass()
    with pytest.raises(ValueError, match=r"expected data .* float32 of shape \(None, 4\): \w+: "):
        freeze_bn(model, {"zzz": X})


@pytest.mark.parametrize("compiled", [False, True])
def test_inference_is_tried_on_a_list_of_inputs(compiled):
    inputs = [keras.Input((4,)), keras.Input((3,))]
    h = layers.BatchNormalization(name="bn")(layers.Concatenate()(inputs))
    model = keras.Model(inputs, layers.Dense(3)(h))
    if compiled:
        model.compile("sgd", "mse")
    for data in (None, [X, Y], ([X, Y], Y)):
        done = freeze_bn(model, data)
        assert (done.inference, done.skipped) == (True, ())


def test_bn_that_cannot_learn_is_not_called_unfrozen():
    model = plain(momentum=1.0, center=False, scale=False)
    model.compile("sgd", "mse")
    freeze_bn(model)
    flagged = flags(model)
    with pytest.raises(RuntimeError, match="'bn' does not learn although trainable is True"):
        unfreeze_bn(model)
    assert flags(model) == flagged


def test_the_kernel_gradient_of_a_convolution_is_not_computed_and_everything_else_is_as_it_was():
    # TensorFlow 2.21 with oneDNN aborts the process in it for some shapes.
    called = []

    class Watched(keras.Model):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = self.compute_loss(None, data[1], self(data[0], training=True))
            kernel, *others = tape.gradient(loss, self.trainable_variables)
            called.append((float(tf.norm(kernel)), float(tf.norm(others[-1]))))
            self.optimizer.apply([kernel, *others], self.trainable_variables)
            return {"loss": loss}

    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, strides=2, padding="same")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="bn")(x))
    model = Watched(inputs, layers.Dense(1)(x))
    model.compile("sgd", "mse", run_eagerly=True)
    data = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32"), np.ones((8, 1))
    run = dry_run(Subject(model), data)
    (kernel,) = [each for each in run.weights if each.path.startswith("conv2d") and each.trained][
        :1
    ]
    assert kernel.connected
    assert called[0][0] == 0 < called[0][1]
    model.fit(*data, verbose=0)
    assert called[-1][0] > 0
