"""Batch normalization, measured: helpers shared by the chapters and by readers' own models.

`import bnutils` loads nothing; a module is loaded when its name is first used, so that
`bnutils.norm.batch_norm` works right away and TensorFlow is waited for only where it is needed.

The mathematics:
    norm: batch normalization in NumPy: the functions, their gradient, and the layer.
    gradcheck: is this gradient right?
    conventions: one layer's parameters, from PyTorch to Keras and back.
    replicas: statistics of several devices: merged, and what it costs to share them.

Experiments and evidence:
    data: data sets that need no download.
    network: small networks, many runs trained as one array program.
    keras_nets: the same networks in Keras. Loads TensorFlow.
    evidence: from runs to intervals to claims.
    studies: the experiments of the chapters, by name, and what they measured.
    workers: several processes on this machine that train as one.
    plots: the look of every figure.
    progress: a progress bar for people, and none for machines.

For the reader:
    checks: exercises that answer back.
    doctor: find and mend what is wrong with batch normalization in your own Keras model.
    testing: assert in your own tests that a model is sound.
    cli: the doctor from a shell: `bnutils audit model.keras`.

Example:
    >>> import bnutils
    >>> print(bnutils.norm.standardize([[3.0], [9], [11], [17]], axis=0)[0].ravel())
    [-1.4 -0.2  0.2  1.4]
"""

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # as in `typing`, whose import would cost more than all the rest here
if TYPE_CHECKING:
    from bnutils import (
        checks,
        cli,
        conventions,
        data,
        doctor,
        evidence,
        gradcheck,
        keras_nets,
        network,
        norm,
        plots,
        progress,
        replicas,
        studies,
        testing,
        workers,
    )

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "checks",
    "cli",
    "conventions",
    "data",
    "doctor",
    "evidence",
    "gradcheck",
    "keras_nets",
    "network",
    "norm",
    "plots",
    "progress",
    "replicas",
    "studies",
    "testing",
    "workers",
]


def __getattr__(name: str) -> ModuleType:
    """Load a module when its name is first used (PEP 562)."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}: expected one of {', '.join(__all__[1:])}",
        name=name,
        obj=sys.modules[__name__],
    )


def __dir__() -> list[str]:
    """List the modules, loaded or not, and the version."""
    return list(__all__)
