"""What each Keras layer and operation does to a signal: one table, for rules, fold and probe.

The table goes by class. A subclass is of its parent's kind if it leaves alone how the parent
computes; if it has a `call` of its own, say, it may do anything, and is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bnutils._keras import keras, operation_class

__all__ = [
    "PROBABILITY",
    "SQUASHING",
    "Kind",
    "activation",
    "channel_axis",
    "keras_class",
    "kind",
    "mask",
    "nearest",
    "noise",
]

layers = keras.layers

PROBABILITY = frozenset(
    ["softmax", "sigmoid", "hard_sigmoid", "log_softmax", "log_sigmoid", "sparsemax"]
)
#: Functions that press every signal, from both sides, into an interval of the size of one.
SQUASHING = (PROBABILITY - {"log_softmax", "log_sigmoid"}) | {"tanh", "hard_tanh", "softsign"}

Role = Literal[
    "unknown",
    "input",
    "dense",
    "einsum",
    "convolution",
    "depthwise",
    "separable",
    "transposed",
    "embedding",
    "recurrent",
    "cell",
    "attention",
    "activation",
    "normalization",
    "identity",
    "masking",
    "noise",
    "augmentation",
    "preprocessing",
    "pooling",
    "resizing",
    "rearrangement",
    "reduction",
    "arithmetic",
    "merge",
    "wrapper",
    "foreign",
]
Noise = Literal["values", "channels", "examples", "adds", "augments"]
Mask = Literal["keeps", "loses", "makes"]

_CONVOLUTIONS = frozenset(["convolution", "depthwise", "separable", "transposed"])
_LINEAR = _CONVOLUTIONS | {"dense", "einsum"}


@dataclass(frozen=True)
class Kind:
    """What a class of layers or operations does. The defaults claim nothing.

    Attributes:
        role: what it is for, in a word; "unknown" if the table does not know it.
        channels: "last" if it keeps channels on the last axis, "data_format" if it has a setting
            of that name; None if it has no say.
        function: the name of the function that bends the signal, as in `keras.activations`;
            "linear" if nothing does, "" if that is not known. `activation` goes by settings too.
        keeps_channels: whether each channel goes through by itself, on its own axis, unbent.
        passes: whether the signal goes through unbent, perhaps rearranged or averaged.
        identity: whether it gives back its input at inference.
        noise: what training changes at random: single "values" or whole "channels" or "examples"
            that are dropped or scaled, noise that it "adds", or an image that it "augments".
        keeps_variance: whether its noise leaves mean and variance of a normalized signal alone.
        mask: whether it hands a mask on, loses it or makes one; None if that depends on settings.
            `mask` goes by settings.
    """

    role: Role = "unknown"
    channels: Literal["last", "data_format"] | None = None
    function: str = ""
    keeps_channels: bool = False
    passes: bool = False
    identity: bool = False
    noise: Noise | None = None
    keeps_variance: bool = False
    mask: Mask | None = None

    @property
    def linear(self) -> bool:
        """Whether it is an affine map with a kernel, up to its own `activation`."""
        return self.role in _LINEAR

    @property
    def convolution(self) -> bool:
        """Whether it is a convolution of any sort."""
        return self.role in _CONVOLUTIONS


_UNKNOWN = Kind()
_through = {"function": "linear", "keeps_channels": True, "passes": True}
_moved = {"function": "linear", "passes": True}

# Operations that are no layers hand no mask on.
_op = {"mask": "loses"}
_LAYERS: tuple[tuple[str, Kind], ...] = (
    ("InputLayer", Kind("input")),
    ("Dense", Kind("dense", "last", mask="keeps")),
    ("EinsumDense", Kind("einsum", mask="loses")),
    ("Conv1D Conv2D Conv3D", Kind("convolution", "data_format", mask="loses")),
    ("DepthwiseConv1D DepthwiseConv2D", Kind("depthwise", "data_format", mask="loses")),
    ("SeparableConv1D SeparableConv2D", Kind("separable", "data_format", mask="loses")),
    (
        "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
        Kind("transposed", "data_format", mask="loses"),
    ),
    ("Embedding ReversibleEmbedding", Kind("embedding", "last", "linear")),
    ("RNN SimpleRNN GRU LSTM", Kind("recurrent", "last")),
    ("ConvLSTM1D ConvLSTM2D ConvLSTM3D", Kind("recurrent", "data_format")),
    ("SimpleRNNCell GRUCell LSTMCell StackedRNNCells", Kind("cell", "last")),
    (
        "Attention AdditiveAttention MultiHeadAttention GroupQueryAttention",
        Kind("attention", mask="keeps"),
    ),
    ("Activation", Kind("activation", mask="keeps")),
    ("ReLU", Kind("activation", function="relu", mask="keeps")),
    ("LeakyReLU", Kind("activation", function="leaky_relu", mask="keeps")),
    ("ELU", Kind("activation", function="elu", mask="keeps")),
    ("PReLU", Kind("activation", function="p_relu", mask="keeps")),
    ("Softmax", Kind("activation", function="softmax", mask="keeps")),
    ("BatchNormalization", Kind("normalization", function="linear", mask="keeps")),
    (
        "LayerNormalization GroupNormalization UnitNormalization",
        Kind("normalization", mask="keeps"),
    ),
    ("RMSNormalization", Kind("normalization", mask="loses")),
    (
        "Identity ActivityRegularization",
        Kind("identity", **_through, identity=True, mask="keeps"),
    ),
    ("Masking", Kind("masking", **_through, mask="makes")),
    (
        "Dropout GaussianDropout",
        Kind("noise", **_through, identity=True, noise="values", mask="keeps"),
    ),
    (
        "AlphaDropout",
        Kind("noise", **_through, identity=True, noise="values", keeps_variance=True, mask="keeps"),
    ),
    (
        "SpatialDropout1D SpatialDropout2D SpatialDropout3D",
        Kind("noise", **_through, identity=True, noise="channels", mask="keeps"),
    ),
    ("GaussianNoise", Kind("noise", **_through, identity=True, noise="adds", mask="keeps")),
    (
        "AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration"
        " RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing"
        " RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective"
        " RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear"
        " RandomTranslation RandomZoom",
        Kind("augmentation", noise="augments", mask="loses"),
    ),
    ("Rescaling", Kind("preprocessing", **_through, mask="keeps")),
    ("Normalization", Kind("preprocessing", mask="keeps")),
    (
        "AutoContrast CategoryEncoding CenterCrop ContrastLimitedAdaptiveHistogramEqualization"
        " Discretization Equalization HashedCrossing Hashing IntegerLookup MaxNumBoundingBoxes"
        " MelSpectrogram Resizing Solarization STFTSpectrogram StringLookup TextVectorization",
        Kind("preprocessing", mask="loses"),
    ),
    (
        "MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D AveragePooling2D"
        " AveragePooling3D AdaptiveAveragePooling1D AdaptiveAveragePooling2D"
        " AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D",
        Kind("pooling", "data_format", **_through, mask="loses"),
    ),
    (
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D"
        " UpSampling1D UpSampling2D UpSampling3D",
        Kind("resizing", **_through, mask="loses"),
    ),
    (
        "Flatten Reshape Permute RepeatVector",
        Kind("rearrangement", **_moved, mask="loses"),
    ),
    (
        "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D"
        " GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D",
        Kind("reduction", **_moved, mask="loses"),
    ),
    ("Add Subtract Multiply", Kind("arithmetic", mask="keeps")),
    ("Average Concatenate Maximum Minimum", Kind("merge", mask="keeps")),
    ("Dot", Kind("merge", mask="loses")),
    ("Bidirectional SpectralNormalization TimeDistributed Wrapper", Kind("wrapper")),
    ("FlaxLayer JaxLayer Lambda Pipeline TFSMLayer TorchModuleWrapper", Kind("foreign")),
)
_OPERATIONS: tuple[tuple[str, Kind], ...] = (
    ("StopGradient Copy", Kind("identity", **_through, identity=True, **_op)),
    ("Cast ConvertToTensor Pad", Kind("resizing", **_through, **_op)),
    ("MaxPool AveragePool", Kind("pooling", **_through, **_op)),
    (
        "Reshape Ravel Transpose Moveaxis Swapaxes Squeeze ExpandDims GetItem",
        Kind("rearrangement", **_moved, **_op),
    ),
    ("Mean Max", Kind("reduction", **_moved, **_op)),
    ("Add Subtract Multiply Divide TrueDivide Negative", Kind("arithmetic", **_op)),
    ("LayerNorm RMSNorm Normalize", Kind("normalization", **_op)),
    *(
        (name, Kind("activation", function=function, **_op))
        for name, function in {
            "Celu": "celu",
            "Elu": "elu",
            "Exp": "exponential",
            "Gelu": "gelu",
            "HardSigmoid": "hard_sigmoid",
            "HardSilu": "hard_silu",
            "HardTanh": "hard_tanh",
            "LeakyRelu": "leaky_relu",
            "LogSigmoid": "log_sigmoid",
            "LogSoftmax": "log_softmax",
            "Relu": "relu",
            "Relu6": "relu6",
            "Selu": "selu",
            "Sigmoid": "sigmoid",
            "Silu": "silu",
            "Softmax": "softmax",
            "Softplus": "softplus",
            "Softsign": "softsign",
            "Sparsemax": "sparsemax",
            "Squareplus": "squareplus",
            "Tanh": "tanh",
        }.items()
    ),
)
_TABLE: dict[type, Kind] = {
    **{getattr(layers, name): kind for names, kind in _LAYERS for name in names.split()},
    **{operation_class(name): kind for names, kind in _OPERATIONS for name in names.split()},
}
# What a subclass may define for itself and still compute what its parent does.
_HARMLESS = frozenset(["__init__", "build", "from_config", "get_config", "compute_output_shape"])

_HANDS_ON = keras.Layer.compute_mask, layers.TimeDistributed.compute_mask


def nearest(operation: Any) -> Kind:
    """The kind of the nearest class that the table knows, whatever a subclass makes of it.

    A hint: `kind` is for claims. Unknown if no parent is in the table.
    """
    return _TABLE.get(keras_class(operation), _UNKNOWN)


def kind(operation: keras.Operation) -> Kind:
    """What a layer or an operation does.

    Args:
        operation: a `keras.Layer` or another `keras.Operation`.

    Returns:
        The entry of its class, or of the nearest parent if the subclass changes nothing of how
        that computes; the unknown kind else.

    Example:
        >>> kind(keras.layers.Conv1D(2, 3)).role, kind(keras.layers.Dropout(0.5)).noise
        ('convolution', 'values')
    """
    known = keras_class(operation)
    if known is None or "call" in vars(operation):
        return _UNKNOWN
    own = type(operation).__mro__[: type(operation).__mro__.index(known)]
    if any(_changes(cls, known) for cls in own):
        return _UNKNOWN
    return _TABLE[known]


def keras_class(operation: Any) -> type | None:
    """The nearest class of a layer or an operation that the table knows; None if there is none."""
    return next((cls for cls in type(operation).__mro__ if cls in _TABLE), None)


def _changes(cls: type, known: type) -> bool:
    """Whether a subclass, or a class mixed in, replaces a method or a property that matters."""
    return any(
        hasattr(known, name)
        and (callable(value) or isinstance(value, property))
        and name not in _HARMLESS
        and (name == "__call__" or not name.startswith("__"))
        for name, value in vars(cls).items()
    )


def _wrapped(layer: Any) -> Any:
    """The layer that a wrapper acts through; None if it is no wrapper."""
    if nearest(layer).role != "wrapper":
        return None
    return layer.forward_layer if isinstance(layer, layers.Bidirectional) else layer.layer


def activation(operation: keras.Operation) -> str:
    """The name of the function that bends the output of a layer or an operation.

    Returns:
        As `Kind.function`: "linear" if nothing bends it, "" if that is not known.

    Example:
        >>> activation(keras.layers.Dense(2)), activation(keras.layers.Dense(2, "silu"))
        ('linear', 'silu')
    """
    inner = _wrapped(operation)
    if inner is not None:
        return activation(inner)
    if hasattr(operation, "activation"):
        function = operation.activation
        if isinstance(function, keras.Operation):  # a layer in the place of a function
            return activation(function)
        if function in (None, keras.activations.linear):
            return "linear"
        name = getattr(function, "__name__", "")
        return "" if name == "linear" else name  # another function of that name may bend
    return kind(operation).function


def channel_axis(operation: keras.Operation) -> int | None:
    """The axis, counted from the end, on which a layer keeps channels; None if it has no say.

    Example:
        >>> channel_axis(keras.layers.Conv2D(8, 3, data_format="channels_first"))
        -3
    """
    inner = _wrapped(operation)
    if inner is not None:
        return channel_axis(inner)
    where = nearest(operation).channels
    if where == "data_format" and operation.data_format == "channels_first":
        # The class is named for its number of spatial axes, the data after the batch.
        name = keras_class(operation).__name__
        return -1 - next(int(letter) for letter in name if letter.isdigit())
    return None if where is None else -1


def noise(operation: keras.Operation) -> Noise | None:
    """What a layer changes at random in training, as `Kind.noise`; None if it changes nothing.

    A dropout with the rate 0 changes nothing; one whose `noise_shape` leaves a single number for
    each example drops examples (stochastic depth).

    Example:
        >>> noise(keras.layers.AlphaDropout(0.5)), noise(keras.layers.Dropout(0.0))
        ('values', None)
    """
    found = nearest(operation).noise
    if found in (None, "augments"):
        return found
    if not (operation.stddev if found == "adds" else operation.rate):
        return None
    shape = getattr(operation, "noise_shape", None)
    if shape is not None and len(shape) > 1 and all(size == 1 for size in shape[1:]):
        return "examples"
    return found


def mask(operation: keras.Operation) -> Mask | None:
    """What becomes of the mask of the input of a layer; None if that is not known.

    Example:
        >>> mask(keras.layers.Dense(2)), mask(keras.layers.Conv1D(2, 3))
        ('keeps', 'loses')
        >>> mask(keras.layers.LSTM(2)), mask(keras.layers.LSTM(2, return_sequences=True))
        ('loses', 'keeps')
    """
    if not isinstance(operation, keras.Layer):
        return "loses"
    known = kind(operation)
    if known.mask is not None:
        return known.mask
    if known.role == "recurrent":
        return "keeps" if operation.return_sequences else "loses"
    if known.role == "embedding":
        return "makes" if operation.mask_zero else "loses"
    if known.role == "wrapper" and not isinstance(operation, layers.TimeDistributed):
        return mask(_wrapped(operation))
    if isinstance(operation, layers.Lambda) and operation.mask is None:
        return "loses"  # Keras hands on what it was given as `mask`: nothing
    own_mask = type(operation).compute_mask not in _HANDS_ON
    if known.role == "foreign" or (own_mask and operation.supports_masking):
        return None
    return "keeps" if operation.supports_masking else "loses"
