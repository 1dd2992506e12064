"""The walk: which layer is called on what, through every nesting, and the model left as it was."""

import numpy as np
import pytest

from bnutils._keras import keras, tf
from bnutils.doctor.graph import batch_norms, layer_paths, walk

layers = keras.layers


def image():
    return keras.Input((6, 6, 3), name="image")


def functional():
    inputs = image()
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    return keras.Model(inputs, layers.ReLU(name="relu")(x), name="functional")


def sequential():
    parts = layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="bn")
    return keras.Sequential([image(), *parts, layers.ReLU(name="relu")], name="sequential")


class Subclass(keras.Model):
    """The same layers in a `call`."""

    def __init__(self, name="subclass"):
        """Make the parts."""
        super().__init__(name=name)
        self.conv = layers.Conv2D(4, 3, name="conv")
        self.bn = layers.BatchNormalization(name="bn")
        self.relu = layers.ReLU(name="relu")

    def call(self, inputs, training=None):
        """Convolve, normalize, cut."""
        return self.relu(self.bn(self.conv(inputs), training=training))


def subclass():
    model = Subclass()
    model(np.zeros((1, 6, 6, 3), "float32"))
    return model


def around(part, **arguments):
    """A functional model that calls another one, between two layers of its own."""
    inputs = image()
    x = part(layers.Rescaling(0.5, name="rescale")(inputs), **arguments)
    return keras.Model(inputs, layers.Flatten(name="flat")(x), name="outer")


def paths(graph):
    return [call.path for call in graph.calls]


@pytest.mark.parametrize("make", [functional, sequential, subclass])
def test_every_kind_of_model_gives_the_same_graph(make):
    graph = walk(make())
    assert paths(graph) == ["conv", "bn", "relu"]
    conv, bn, relu = graph.calls
    assert graph.inputs == conv.inputs
    assert conv.outputs == bn.inputs
    assert bn.outputs == relu.inputs
    assert graph.outputs == relu.outputs
    assert graph.producer(graph.inputs[0]) is None
    assert graph.producer(bn.inputs[0]) is conv
    assert graph.consumers(bn.outputs[0]) == (relu,)
    assert graph.consumers(relu.outputs[0]) == ()
    assert [graph.is_output(call.outputs[0]) for call in graph.calls] == [False, False, True]
    assert bn.inputs[0].shape == (None, 4, 4, 4)
    assert bn.inputs[0].dtype == "float32"
    assert not graph.unwalked


@pytest.mark.parametrize("make", [functional, sequential, subclass])
def test_nested_models_are_walked_through(make):
    part = make()
    graph = walk(around(part))
    assert paths(graph) == [
        "rescale",
        *(f"{part.name}/{name}" for name in ("conv", "bn", "relu")),
        "flat",
    ]
    for one, other in zip(graph.calls[:-1], graph.calls[1:], strict=True):
        assert one.outputs == other.inputs


def test_deep_nesting():
    inner = around(functional())
    inputs = image()
    model = keras.Model(inputs, layers.Dense(2, name="dense")(inner(inputs)))
    assert "outer/functional/bn" in paths(walk(model))
    assert "outer/functional/bn" in layer_paths(model).values()


@pytest.mark.parametrize("make", [functional, sequential, subclass, lambda: around(subclass())])
def test_the_model_stays_as_it_was(make):
    model = make()

    def state():
        parts = [model, *layer_paths(model)]
        nodes = [(len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts]
        return nodes, model.get_weights(), [part.trainable for part in parts], model.losses

    nodes, weights, *others = state()
    walk(model)
    nodes_after, weights_after, *others_after = state()
    assert nodes_after == nodes
    assert others_after == others
    for before, after in zip(weights, weights_after, strict=True):
        np.testing.assert_array_equal(before, after)


class Assigns(Subclass):
    """Counts its calls in a weight."""

    def build(self, input_shape):
        """Make the counter."""
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, inputs, training=None):
        """Count, then go on."""
        self.count.assign_add(1.0)
        return super().call(inputs, training=training)


def test_nothing_that_call_assigns_is_kept():
    model = Assigns()
    model(np.zeros((1, 6, 6, 3), "float32"))
    before = float(model.count.value)
    assert paths(walk(model)) == ["conv", "bn", "relu"]
    assert float(model.count.value) == before


class Fails(Subclass):
    """Breaks in the middle of its `call` when its input is symbolic."""

    def call(self, inputs, training=None):
        """Ask a symbolic tensor for its values."""
        x = self.bn(self.conv(inputs), training=training)
        return self.relu(tf.convert_to_tensor(x))


def test_a_call_that_breaks_is_listed_and_leaves_no_trace():
    model = Fails(name="fails")
    model(np.zeros((1, 6, 6, 3), "float32"))
    nodes = [len(part._inbound_nodes) for part in layer_paths(model)]
    graph = walk(model)
    assert [part.path for part in graph.unwalked] == [""]
    assert "its call cannot run on symbolic tensors" in graph.unwalked[0].reason
    assert nodes == [len(part._inbound_nodes) for part in layer_paths(model)]


def test_a_part_that_breaks_is_one_call():
    model = around(Fails(name="fails"))
    graph = walk(model)
    assert paths(graph) == ["rescale", "fails", "flat"]
    assert [part.path for part in graph.unwalked] == ["fails"]


def test_a_model_that_is_not_built_is_listed():
    for model in (Subclass(), keras.Sequential([layers.BatchNormalization()])):
        ((part),) = walk(model).unwalked
        assert part.path == ""
        assert "call it on data first" in part.reason or "is not known" in part.reason


class Skips(Subclass):
    """Owns a layer that it does not use."""

    def call(self, inputs):
        """Convolve only."""
        return self.conv(inputs)


def test_a_layer_that_call_does_not_reach_is_listed():
    model = Skips()
    model.bn.build((None, 4, 4, 4))
    model.relu.build((None, 4, 4, 4))
    model(np.zeros((1, 6, 6, 3), "float32"))
    (part,) = walk(model).unwalked
    assert part.path == "bn"
    assert "does not reach" in part.reason


TRAINING = [
    (functional, {}, None, False),
    (functional, {"training": False}, False, True),
    (functional, {"training": True}, True, True),
    (sequential, {"training": False}, False, True),
    (subclass, {"training": False}, False, True),
]


@pytest.mark.parametrize(("make", "arguments", "training", "recorded"), TRAINING)
def test_training_fixed_by_the_call_of_a_nested_model(make, arguments, training, recorded):
    part = make()
    graph = walk(around(part, **arguments))
    (bn,) = graph.of(part.get_layer("bn"))
    assert bn.training is training
    assert bn.recorded is recorded


class Fixed(Subclass):
    """Fixes `training` inside its `call`, where Keras obeys it."""

    def call(self, inputs):
        """BN at inference."""
        return self.relu(self.bn(self.conv(inputs), training=False))


def test_training_fixed_inside_a_subclass_is_not_recorded():
    model = Fixed()
    model(np.zeros((1, 6, 6, 3), "float32"))
    (bn,) = walk(model).of(model.bn)
    assert bn.training is False
    assert bn.recorded is False


@pytest.mark.parametrize("inner", [None, False, True])
@pytest.mark.parametrize("outer", [None, False, True])
def test_what_a_recorded_graph_is_told_counts_more_than_what_it_records(inner, outer):
    inputs = image()
    bn = layers.BatchNormalization(name="bn", momentum=0.0)
    part = keras.Model(inputs, bn(inputs, training=inner), name="part")
    model = around(part, training=outer)
    (call,) = walk(model).of(bn)
    assert call.training is (inner if outer is None else outer)
    model(np.ones((1, 6, 6, 3), "float32"))  # and so Keras does
    assert bool(np.any(bn.moving_mean)) == bool(call.training)


def test_time_distributed_is_opened_or_not():
    bn = layers.BatchNormalization(name="bn")
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.TimeDistributed(bn, name="td")(inputs))
    graph = walk(model)
    (call,) = graph.calls
    assert (call.layer, call.path, call.wrappers) == (bn, "td/bn", ("TimeDistributed",))
    assert (call.inputs, call.outputs) == (graph.inputs, graph.outputs)
    (whole,) = walk(model, through_wrappers=False).calls
    assert whole.path == "td"
    assert whole.wrappers == ()


def test_time_distributed_around_a_model():
    model = around(layers.TimeDistributed(sequential_of_rows(), name="td"))
    calls = {call.path: call.wrappers for call in walk(model).calls}
    assert calls["td/rows/bn"] == ("TimeDistributed",)
    assert calls["flat"] == ()


def sequential_of_rows():
    parts = layers.Dense(3, name="dense"), layers.BatchNormalization(name="bn")
    return keras.Sequential([keras.Input((6, 3)), *parts], name="rows")


def test_a_shared_layer_has_several_calls():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    bn = layers.BatchNormalization(name="bn")
    model = keras.Model([a, b], layers.Add()([bn(a), bn(b)]))
    graph = walk(model)
    assert len(graph.of(bn)) == 2
    assert [call.inputs for call in graph.of(bn)] == [graph.inputs[:1], graph.inputs[1:]]
    assert batch_norms(model) == [bn]


def test_a_shared_model_has_the_calls_of_both_places():
    part = functional()
    inputs = image()
    model = keras.Model(inputs, part(inputs) + part(layers.Rescaling(2.0)(inputs)))
    assert len(walk(model).of(part.get_layer("bn"))) == 2


def test_operations_are_calls():
    inputs = keras.Input((4,))
    x = keras.ops.tanh(inputs)[:, :2] * 3 + 1
    graph = walk(keras.Model(inputs, layers.BatchNormalization(name="bn")(x)))
    assert [type(call.layer).__name__ for call in graph.calls] == [
        "Tanh",
        "GetItem",
        "Multiply",
        "Add",
        "BatchNormalization",
    ]


def test_arguments_are_refilled():
    inputs = keras.Input((4,))
    graph = walk(keras.Model(inputs, keras.ops.concatenate([inputs, inputs * 2], axis=1)))
    times, join = graph.calls
    values = {tensor: index for index, tensor in enumerate(dict.fromkeys(join.inputs))}
    args, _ = join.arguments(values)
    assert args[0] == [0, 1]
    assert times.arguments({times.inputs[0]: "x"}) == (("x", 2), {})


def test_a_mask_given_by_hand_is_an_argument():
    inputs = keras.Input((6, 4)), keras.Input((6,), dtype="bool")
    model = keras.Model(inputs, layers.LSTM(2)(inputs[0], mask=inputs[1]))
    (call,) = walk(model).calls
    values = dict(zip(call.inputs, ("x", "mask"), strict=True))
    assert call.arguments(values) == (("x",), {"mask": "mask"})


STRUCTURES = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (b, a),
    "dict": lambda a, b: {"y": b, "x": a},
    "nested": lambda a, b: {"y": [b], "x": a},
}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_structures_of_inputs_and_outputs(structure):
    a, b = keras.Input((4,), name="x"), keras.Input((5,), name="y")
    made = layers.Dense(2, name="da")(a), layers.Dense(3, name="db")(b)
    graph = walk(keras.Model(structure(a, b), structure(*made)))
    for found, given, tensors in [
        (graph.input_structure, structure(a, b), graph.inputs),
        (graph.output_structure, structure(*made), graph.outputs),
    ]:
        keras.tree.assert_same_structure(found, given)
        flat = keras.tree.flatten(found)
        assert [value.shape for value in flat] == [tensor.shape for tensor in tensors]


class Pair(layers.Layer):
    """A composite layer with two outputs, in a list."""

    def __init__(self):
        """Make the parts."""
        super().__init__(name="pair")
        self.bn = layers.BatchNormalization(name="bn")

    def call(self, inputs):
        """Twice."""
        x = self.bn(inputs)
        return [x, x + 1]


class Outer(keras.Model):
    """A subclassed model around a composite layer."""

    def __init__(self):
        """Make the parts."""
        super().__init__()
        self.pair = Pair()
        self.dense = layers.Dense(2, name="dense")

    def call(self, inputs):
        """One output, in a dictionary."""
        a, b = self.pair(inputs["a"])
        return {"sum": self.dense(a + b + inputs["b"])}


def test_the_outermost_structure_counts():
    model = Outer()
    model({"a": np.zeros((1, 4), "float32"), "b": np.zeros((1, 4), "float32")})
    graph = walk(model)
    assert not graph.unwalked
    assert list(graph.output_structure) == ["sum"]
    assert list(graph.input_structure) == ["a", "b"]
    assert paths(graph)[0] == "pair/bn"
    assert paths(graph)[-1] == "dense"


class Words(keras.Model):
    """Reads integers."""

    def __init__(self):
        """Make the parts."""
        super().__init__()
        self.embedding = layers.Embedding(10, 4, name="embedding")
        self.bn = layers.BatchNormalization(name="bn")

    def call(self, inputs):
        """Look up, normalize."""
        return self.bn(self.embedding(inputs))


def test_an_example_tells_what_a_subclassed_model_reads():
    model, words = Words(), np.zeros((2, 7), "int32")
    model(words)
    graph = walk(model, words)
    assert paths(graph) == ["embedding", "bn"]
    assert graph.inputs[0].shape == (None, 7)
    assert graph.inputs[0].dtype == "int32"


def test_batch_norms_are_found_everywhere_and_once():
    part = functional()
    td = layers.TimeDistributed(sequential_of_rows(), name="td")
    inputs = image()
    x = layers.Dense(3)(part(inputs)) + td(inputs)[:, 1:5, 1:5] + part(inputs)[..., :1]
    model = keras.Model(inputs, x)
    by_path = layer_paths(model)
    assert sorted(by_path[bn] for bn in batch_norms(model)) == ["functional/bn", "td/rows/bn"]


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"expected a keras\.Model, got Dense"):
        walk(layers.Dense(2))


def test_an_architecture_is_walked_whole():
    model = keras.applications.MobileNetV3Small(weights=None, classes=3, input_shape=(32, 32, 3))
    graph = walk(model)
    assert not graph.unwalked
    assert all(len(graph.of(bn)) == 1 for bn in batch_norms(model))
    made = {tensor for call in graph.calls for tensor in call.outputs} | set(graph.inputs)
    assert all(tensor in made for call in graph.calls for tensor in call.inputs)
    assert graph.outputs[0].shape == (None, 3)


class Told(Subclass):
    """Hands on a `training` that is False unless it is told."""

    def call(self, inputs, training=False):
        """As its parent."""
        return super().call(inputs, training=training)


def test_a_default_of_training_fixes_nothing():
    model = Told()
    model(np.zeros((1, 6, 6, 3), "float32"))
    assert [call.training for call in walk(model).calls] == [None] * 3


def test_a_part_can_be_left_whole():
    part = subclass()
    model = around(part)
    graph = walk(model, whole=[part])
    assert paths(graph) == ["rescale", "subclass", "flat"]
    assert not graph.unwalked
    assert not graph.followed
    assert walk(model).followed == {"subclass": part}
    assert walk(part).followed == {"": part}


class FailsWithin(Subclass):
    """Breaks in a layer inside a layer, for a reason of its own."""

    def __init__(self):
        """Put something into the middle."""
        super().__init__()
        self.bad = layers.Lambda(self.fail, name="bad")
        self.broken = False

    def fail(self, inputs):
        """Say why, over two lines."""
        if self.broken:
            raise RuntimeError("the table of\nwords is missing")
        return inputs

    def call(self, inputs, training=None):
        """Fail in the middle."""
        return self.relu(self.bn(self.conv(self.bad(inputs))))


def test_the_reason_is_the_cause_and_not_what_keras_wraps_around_it():
    model = FailsWithin()
    model(np.zeros((1, 6, 6, 3), "float32"))
    model.broken = True
    (missed,) = walk(model).unwalked
    assert missed.reason == (
        "its call cannot run on symbolic tensors (RuntimeError: the table of words is missing)"
    )


class Insists(keras.Model):
    """Tells a recorded graph `training=True`, in which Keras has recorded a False."""

    def __init__(self):
        """Make the parts."""
        super().__init__()
        drop = layers.Dropout(0.5, name="drop")
        self.part = keras.Sequential([image(), drop], name="part")
        self.bn = layers.BatchNormalization(name="bn")

    def call(self, inputs, training=None):
        """Insist."""
        return self.bn(self.part(inputs, training=True), training=training)


def test_a_recorded_graph_in_a_call_obeys_that_call():
    model = Insists()
    model(np.zeros((1, 6, 6, 3), "float32"))
    drop, bn = walk(model).calls
    assert (drop.path, drop.training, drop.recorded) == ("part/drop", True, False)
    assert bn.training is None
    assert np.any(model(np.ones((1, 6, 6, 3), "float32"), training=False) == 0)


class Block(layers.Layer):
    """Has a `training` with a default, which Keras records as if it had been given."""

    def __init__(self, **options):
        """Make the part."""
        super().__init__(**options)
        self.bn = layers.BatchNormalization(name="bn", momentum=0.0)

    def build(self, shape):
        """Build the part."""
        self.bn.build(shape)

    def call(self, inputs, training=False):
        """Normalize."""
        return self.bn(inputs, training=training)


class Around(keras.Model):
    """Calls a block and gives it something, or nothing."""

    def __init__(self, **given):
        """Make the block."""
        super().__init__()
        self.block, self.given = Block(name="block"), given

    def call(self, inputs, training=False):
        """Call it."""
        return self.block(inputs, **self.given)


def in_a_functional_model():
    inputs = image()
    block = Block(name="block")
    return keras.Model(inputs, block(inputs)), block


def in_a_subclass(**given):
    model = Around(**given)
    model(np.zeros((1, 6, 6, 3), "float32"))
    return model, model.block


@pytest.mark.parametrize(
    ("make", "training"),
    [
        (in_a_functional_model, None),
        (in_a_subclass, None),
        (lambda: in_a_subclass(training=False), False),
        (lambda: in_a_subclass(training=True), True),
    ],
)
def test_a_default_of_training_is_told_from_a_value_that_was_given(make, training):
    model, block = make()
    (call,) = walk(model).of(block.bn)
    assert call.training is training
    assert not call.recorded
    for told in (False, True):  # and so Keras does
        block.bn.moving_mean.assign(np.zeros(3))
        model(np.ones((1, 6, 6, 3), "float32"), training=told)
        assert np.any(block.bn.moving_mean) == (told if training is None else training)


class Particular(Subclass):
    """Takes a plain truth value for `training`, and nothing that only looks like one."""

    def call(self, inputs, training=None):
        """Ask what it is."""
        assert training in (None, False, True)
        return super().call(inputs, training=training)


def test_a_call_that_is_particular_about_training_is_followed_too():
    model = Particular()
    model(np.zeros((1, 6, 6, 3), "float32"))
    assert [call.training for call in walk(model).calls] == [None] * 3


class Doubled(keras.Model):
    """Has a call of its own around the graph that it records."""

    def __init__(self):
        """Record the graph."""
        inputs = image()
        super().__init__(inputs, layers.BatchNormalization(name="bn")(inputs), name="doubled")

    def call(self, inputs, training=None):
        """Add the outputs to themselves."""
        x = super().call(inputs, training=training)
        return layers.add([x, x])


def test_a_call_around_a_recorded_graph_is_followed():
    graph = walk(Doubled())
    assert [path.split("_")[0] for path in paths(graph)][-2:] == ["bn", "add"]
    assert graph.inputs[0].shape == (None, 6, 6, 3)


class Cell(layers.Layer):
    """A recurrent cell with batch normalization."""

    def __init__(self, **options):
        """Make the part."""
        super().__init__(**options)
        self.bn, self.state_size = layers.BatchNormalization(name="bn"), 3

    def build(self, shape):
        """Build the part."""
        self.bn.build(shape)

    def call(self, inputs, states):
        """Normalize."""
        return self.bn(inputs), states


def test_a_loop_over_steps_is_told_as_what_it_is():
    inputs = keras.Input((5, 3))
    (missed,) = walk(keras.Model(inputs, layers.RNN(Cell(), name="rnn")(inputs))).unwalked
    assert missed.path == "rnn"
    assert missed.reason == "it calls what it holds step by step, in a graph of its own"
