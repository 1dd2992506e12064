"""`bnutils.norm` beside other libraries: their numbers, kept in a file, and a table of differences.

`make conformance` asks the libraries that are installed, keeps what is known of the others, and
writes tests/conformance.npz and book/measured/conformance.json. PyTorch and Flax are no
dependencies of the book: `pip install numpy torch flax` in an environment of your own, and run
`PYTHONPATH=src python tests/conformance.py` there.
"""

from __future__ import annotations

import json
import math
import platform
import warnings
from importlib import metadata, util
from pathlib import Path

import numpy as np

from bnutils.conventions import from_pytorch, to_pytorch
from bnutils.norm import BatchNorm, batch_norm_inference, standardize

VECTORS = Path(__file__).with_suffix(".npz")
TABLE = Path(__file__).parents[1] / "book/measured/conformance.json"

CASES = {  # shape and axis of the channels
    "rows": ((8, 5), 1),
    "channels last": ((3, 4, 2, 3), 3),
    "channels first": ((3, 3, 4, 2), 1),
}
ALLOWED = {"float64": 1e-12, "float32": 1e-5}
IN_SINGLE = {"Flax": ["inference", "mean", "variance"]}  # it keeps statistics in float32, always
QUANTITIES = ["y", "inference", "mean", "variance", "dx", "dgamma", "dbeta"]
LIBRARIES = {  # the module to import, the names of its packages, the cases that it has
    "Keras": ("keras", ["keras", "tensorflow"], list(CASES)),
    "PyTorch": ("torch", ["torch"], ["rows", "channels first"]),
    "Flax": ("flax", ["flax", "jax"], list(CASES)),
}
NODES = {  # how ONNX's names begin
    "batchnorm_": "batch",
    "layer_normalization_": "layer",
    "group_normalization_": "group",
    "instancenorm_": "instance",
}


def inputs(case: str, dtype: str) -> dict[str, np.ndarray]:
    """Two batches, the gradient of the second's output, gamma and beta."""
    shape, axis = CASES[case]
    rng = np.random.default_rng(list(CASES).index(case))
    return {
        "first": (3 + 2 * rng.standard_normal(shape)).astype(dtype),
        "second": (2 + 3 * rng.standard_normal(shape)).astype(dtype),
        "dy": rng.standard_normal(shape).astype(dtype),
        "gamma": (1 + 0.5 * rng.standard_normal(shape[axis])).astype(dtype),
        "beta": rng.standard_normal(shape[axis]).astype(dtype),
    }


# ---- the libraries -------------------------------------------------------------------------------


def ask_keras(case, first, second, dy, gamma, beta):
    from bnutils._keras import keras, tf

    layer = keras.layers.BatchNormalization(axis=CASES[case][1], dtype=str(first.dtype))
    layer.build(first.shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    layer(first, training=True)
    x = tf.constant(second)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    sources = [x, layer.gamma.value, layer.beta.value]
    gradients = tape.gradient(y, sources, output_gradients=tf.constant(dy))
    moving = layer.moving_mean, layer.moving_variance
    found = y, layer(second, training=False), *moving, *gradients
    return [keras.ops.convert_to_numpy(a) for a in found]


def ask_torch(case, first, second, dy, gamma, beta):
    import torch

    kind = torch.nn.BatchNorm1d if first.ndim == 2 else torch.nn.BatchNorm2d
    layer = kind(len(gamma), dtype=getattr(torch, str(first.dtype)))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(gamma))
        layer.bias.copy_(torch.tensor(beta))
    layer(torch.tensor(first))
    x = torch.tensor(second, requires_grad=True)
    y = layer(x)
    y.backward(torch.tensor(dy))
    layer.eval()
    found = y, layer(x), layer.running_mean, layer.running_var
    return [a.detach().numpy() for a in (*found, x.grad, layer.weight.grad, layer.bias.grad)]


def ask_flax(case, first, second, dy, gamma, beta):
    import jax
    from flax import linen

    jax.config.update("jax_enable_x64", True)
    layer = linen.BatchNorm(axis=CASES[case][1], dtype=first.dtype, param_dtype=first.dtype)
    state = layer.init(jax.random.key(0), first, use_running_average=True)["batch_stats"]

    def call(x, parameters, state):
        variables = {"params": parameters, "batch_stats": state}
        y, changed = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        return y, changed["batch_stats"]

    parameters = {"scale": gamma, "bias": beta}
    _, state = call(first, parameters, state)
    y, pull, state = jax.vjp(lambda *a: call(*a, state), second, parameters, has_aux=True)
    dx, gradients = pull(dy)
    variables = {"params": parameters, "batch_stats": state}
    inference = layer.apply(variables, second, use_running_average=True)
    found = y, inference, state["mean"], state["var"], dx, gradients["scale"], gradients["bias"]
    return [np.asarray(a) for a in found]


ASK = {"Keras": ask_keras, "PyTorch": ask_torch, "Flax": ask_flax}


def nodes() -> dict[str, dict[str, np.ndarray]]:
    """The test vectors that ONNX publishes for the operators of this kind, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators of other kinds
        cases = collect_testcases("")
    found = {}
    for case in cases:
        name = case.name.removeprefix("test_")
        if not name.startswith(tuple(NODES)) or name.endswith("_expanded") or "_expanded_" in name:
            continue
        (node,) = case.model.graph.node
        given = {a.name: a.f if a.type == a.FLOAT else a.i for a in node.attribute}
        ((ins, outs),) = case.data_sets
        found[name] = {
            **{f"in{i}": np.asarray(a) for i, a in enumerate(ins)},
            **{f"out{i}": np.asarray(a) for i, a in enumerate(outs)},
            **{name: np.asarray(value) for name, value in given.items()},
        }
    return found


# ---- bnutils by their conventions ----------------------------------------------------------------


def ours(library, case, first, second, dy, gamma, beta):
    """What a library computes, computed by `bnutils.norm`: an array for each of `QUANTITIES`."""
    axis, count = CASES[case][1], first.size // len(gamma)
    settings = {"Keras": {}, "Flax": {"epsilon": 1e-5}, "PyTorch": {}}[library]
    start = {}
    if library == "PyTorch":
        zeros, ones = np.zeros_like(gamma), np.ones_like(gamma)
        start = from_pytorch(running_mean=zeros, running_var=ones, count=count)
        settings = {"momentum": start["momentum"], "epsilon": start["epsilon"]}
    layer = BatchNorm(axis=axis, **settings)
    layer.gamma, layer.beta = gamma, beta
    layer.moving_variance = start.get("moving_variance")
    layer(first, training=True)
    y = layer(second, training=True)
    dx = layer.backward(dy)
    mean, variance = layer.moving_mean, layer.moving_variance
    if library == "PyTorch":
        moving = {"moving_mean": mean, "moving_variance": variance}
        kept = to_pytorch(**moving, **settings, count=count)
        mean, variance = kept["running_mean"], kept["running_var"]
    inference = batch_norm_inference(
        second, gamma, beta, mean, variance, axis=axis, epsilon=layer.epsilon
    )
    return [y, inference, mean, variance, dx, layer.dgamma, layer.dbeta]


def ours_of_node(name: str, node: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of one of ONNX's vectors that this kind of function has, in its order."""
    x, scale, shift, *moving = (node[f"in{i}"] for i in range(len(node)) if f"in{i}" in node)
    epsilon = float(node.get("epsilon", 1e-5))
    if name.startswith("batchnorm_"):
        if not node.get("training_mode", 0):
            return [batch_norm_inference(x, scale, shift, *moving, axis=1, epsilon=epsilon)]
        layer = BatchNorm(axis=1, momentum=float(node.get("momentum", 0.9)), epsilon=epsilon)
        layer.gamma, layer.beta = scale, shift
        layer.moving_mean, layer.moving_variance = moving
        return [layer(x, training=True), layer.moving_mean, layer.moving_variance]
    if name.startswith("layer_normalization_"):
        axis = int(node.get("axis", -1)) % x.ndim
        x_hat, mean, variance = standardize(x, tuple(range(axis, x.ndim)), epsilon)
        return [x_hat * scale + shift, mean, 1 / np.sqrt(variance + np.float32(epsilon))]
    groups = int(node.get("num_groups", x.shape[1]))  # instance normalization: as many as channels
    apart = x.reshape(len(x), groups, -1)
    x_hat = standardize(apart, 2, epsilon)[0].reshape(x.shape)
    each = (1, -1, *[1] * (x.ndim - 2))
    return [x_hat * scale.reshape(each) + shift.reshape(each)]


def allowed(library: str, dtype: str, quantity: str) -> float:
    """The largest difference from a library that a quantity may have."""
    return ALLOWED["float32" if quantity in IN_SINGLE.get(library, ()) else dtype]


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, as a share of the largest number."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).max() / np.abs(b).max())


# ---- the file and the table ----------------------------------------------------------------------


def kept() -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What the libraries computed, by "library/case/dtype/quantity", and versions by package."""
    with np.load(VECTORS) as file:
        history = json.loads(str(file["history"]))
        flat = {dtype: file[dtype] for dtype in history["dtypes"]}
    vectors, read = {}, dict.fromkeys(flat, 0)
    for name, dtype, shape in history["arrays"]:
        start = read[dtype]
        read[dtype] += math.prod(shape)
        vectors[name] = flat[dtype][start : read[dtype]].reshape(shape)
    return vectors, history["versions"]


def keep(vectors: dict[str, np.ndarray], versions: dict[str, str]) -> None:
    """Write what `kept` reads: many small arrays in few large ones."""
    arrays = [(name, str(a.dtype), a.shape) for name, a in sorted(vectors.items())]
    dtypes = sorted({dtype for _, dtype, _ in arrays})
    flat = {
        each: np.concatenate([vectors[name].ravel() for name, dtype, _ in arrays if dtype == each])
        for each in dtypes
    }
    history = json.dumps({"versions": versions, "dtypes": dtypes, "arrays": arrays})
    np.savez_compressed(VECTORS, history=np.array(history), **flat)


def kept_nodes(vectors: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """ONNX's vectors of the file, as `nodes` gives them."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, value in vectors.items():
        library, _, rest = key.partition("/")
        if library == "ONNX":
            name, _, part = rest.partition("/")
            found.setdefault(name, {})[part] = value
    return found


def differences(vectors: dict[str, np.ndarray], library: str, dtype: str) -> dict[str, float]:
    """The largest difference of each quantity over a library's cases."""
    found = dict.fromkeys(QUANTITIES, 0.0)
    for case in LIBRARIES[library][2]:
        arrays = {name: vectors[f"inputs/{case}/{dtype}/{name}"] for name in inputs(case, dtype)}
        for name, value in zip(QUANTITIES, ours(library, case, **arrays), strict=True):
            theirs = vectors[f"{library}/{case}/{dtype}/{name}"]
            found[name] = max(found[name], apart(value, theirs))
    return found


def node_differences(name: str, node: dict[str, np.ndarray]) -> list[float]:
    """The difference of each output of one of ONNX's vectors."""
    pairs = enumerate(ours_of_node(name, node))
    return [apart(value, node[f"out{i}"]) for i, value in pairs if f"out{i}" in node]


def table(vectors: dict[str, np.ndarray], versions: dict[str, str]) -> dict:
    """The differences as a table of the book."""

    def text(*values: float) -> str:
        return f"{max(values):.0e}".replace("e-0", "e-") if values else "—"

    rows = []
    for library, (_, packages, _) in LIBRARIES.items():
        for dtype, limit in ALLOWED.items():
            d = differences(vectors, library, dtype)
            rows.append(
                [
                    f"{library} {versions[packages[0]].partition('+')[0]}",
                    dtype,
                    text(d["y"]),
                    text(d["inference"]),
                    text(d["mean"], d["variance"]),
                    text(d["dx"]),
                    text(d["dgamma"], d["dbeta"]),
                    text(limit),
                ]
            )
    published = kept_nodes(vectors)
    for kind, word in NODES.items():
        names = [name for name in published if name.startswith(kind)]
        at = {name: node_differences(name, published[name]) for name in names}
        still = [name for name in names if word == "batch" and "training" not in name]
        rest = [name for name in names if name not in still]
        statistics = [value for name in rest for value in at[name][1:]]
        rows.append(
            [
                f"ONNX {versions['onnx']}, {word} norm, {len(names)} vectors",
                "float32",
                text(*(at[name][0] for name in rest)),
                text(*(at[name][0] for name in still)),
                text(*statistics),
                text(),
                text(),
                text(ALLOWED["float32"]),
            ]
        )
    return {
        "head": [
            "Library",
            "Precision",
            "Output",
            "At inference",
            "Statistics",
            "dx",
            "dγ, dβ",
            "Allowed",
        ],
        "rows": rows,
        "note": "Largest difference between `bnutils.norm` and the library, as a share of the "
        "largest number. The libraries: two training steps and an inference, with their own "
        "defaults and by their own conventions, on arrays of the shapes "
        + ", ".join(f"{list(shape)} ({case})" for case, (shape, _) in CASES.items())
        + "; PyTorch's layers take the second axis only. Flax always keeps its statistics in "
        "float32, and 1e-5 is allowed for what depends on them. ONNX: the vectors that it "
        "publishes for its operators; it has no gradients. Measured by `make conformance` with "
        f"NumPy {versions['numpy']} on {versions['machine']}.",
    }


def main() -> None:
    """Ask what is installed, and write the vectors and the table."""
    vectors, versions = kept() if VECTORS.exists() else ({}, {})
    versions |= {"numpy": np.__version__, "machine": f"{platform.system()} {platform.machine()}"}
    for case in CASES:
        for dtype in ALLOWED:
            arrays = inputs(case, dtype)
            vectors |= {f"inputs/{case}/{dtype}/{name}": a for name, a in arrays.items()}
            for library, (module, packages, cases) in LIBRARIES.items():
                if case in cases and util.find_spec(module):
                    found = zip(QUANTITIES, ASK[library](case, **arrays), strict=True)
                    vectors |= {f"{library}/{case}/{dtype}/{name}": a for name, a in found}
                    versions |= {name: metadata.version(name) for name in packages}
    if util.find_spec("onnx"):
        for name, node in nodes().items():
            vectors |= {f"ONNX/{name}/{part}": value for part, value in node.items()}
        versions["onnx"] = metadata.version("onnx")
    keep(vectors, versions)
    if missing := {*LIBRARIES, "ONNX"} - {name.partition("/")[0] for name in vectors}:
        print(f"no table yet: nothing is kept of {', '.join(sorted(missing))}")
        return
    TABLE.parent.mkdir(exist_ok=True)
    text = json.dumps(table(vectors, versions), indent=1, ensure_ascii=False)
    TABLE.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
