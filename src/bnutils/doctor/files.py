"""Model files as people have them: of Keras 3, of Keras 2, and others with the step that is next.

What a file is, its first bytes tell, not its name. Python code that a file holds runs only with
`trust=True`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import h5py

from bnutils._formats import WEIGHTS_ONLY, file_kind
from bnutils._keras import keras, same_draws
from bnutils.doctor.graph import layer_paths
from bnutils.doctor.keras2 import (
    Translation,
    assign_weights,
    compile_arguments,
    steepen_hard_sigmoids,
    weight_groups,
)
from bnutils.doctor.results import NOT_PLAIN, Result, Skipped, Table, grouped_lines, skipped_lines
from bnutils.doctor.words import in_a_line

__all__ = ["ModelFile", "open_model"]

STEPS_AND_RATE = 2  # variables of every optimizer; what is beyond are moments
SHOWN = 3  # layers of one change that print names

_WEIGHTS = "model.weights.h5"
# Members that unpack to far more than they take are no weights; as Keras sees it.
_BOMB_BYTES, _BOMB_RATIO = 1 << 28, 100


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelFile(Result):
    """A model that was read from a file.

    Attributes:
        path: the file.
        written_by: what wrote it, such as "Keras 2.15.0".
        model: the model, compiled if the file says how and Keras 3 can.
        changes: pairs (layer, what is different from the file).
        skipped: what was left out, and why.
    """

    path: str
    written_by: str
    model: keras.Model = field(metadata=NOT_PLAIN)
    changes: tuple[tuple[str, str], ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def _shown(self) -> Iterator[str | Table]:
        yield f"{self.path} was written by {self.written_by}."
        yield from grouped_lines(self.changes, "Changed", SHOWN)
        yield from skipped_lines(self.skipped, "Left out")


def open_model(
    path: str | Path, *, trust: bool = False, modules: Iterable[ModuleType] = ()
) -> ModelFile:
    """Read a model from a file of Keras 3 or Keras 2: .keras, .h5, .hdf5.

    Args:
        path: the file.
        trust: run the Python code that the file holds (Lambda layers), and let it name functions
            of `modules`.
        modules: modules whose layers, losses and other classes of Keras the file may name, as the
            registered ones, even if they were not registered when it was saved.

    Returns:
        A `ModelFile`; `.model` is the model.

    Raises:
        ValueError: if it is no such file; the message says what it is, and the next step. Or if
            Keras 3 cannot read the model that is in it.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
        >>> with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as folder:
        ...     model.save(Path(folder, "model.keras"))
        ...     opened = open_model(Path(folder, "model.keras"))
        >>> opened.written_by == f"Keras {keras.__version__}", opened.skipped
        (True, ())
    """
    path = Path(path)
    kind = file_kind(path)
    try:
        read = _read_zip if kind == "zip" else _read_hdf5
        with same_draws():
            return read(path, trust, tuple(modules))
    # Damaged bytes reach the parsers of HDF5 and Keras, which raise almost anything.
    except Exception as error:
        raise ValueError(f"{path} {_why_not(error)}") from error


class _NotReadableError(Exception):
    """Why a file is no model that can be read: the rest of a sentence that begins with its name."""


# Reading


class _Saved(NamedTuple):
    """What a file says of a model, and what of it may be believed.

    Attributes:
        path: the file.
        version: the version of Keras that wrote it, if it says so.
        config: the config of the model.
        training: what it was compiled with, if it was.
        objects: the user's own classes, by name.
        trust: whether Python code in it runs.
    """

    path: Path
    version: str | None
    config: Any
    training: Any
    objects: dict[str, Any]
    trust: bool


def _check_heaps(path: Path) -> None:
    """Refuse a file in whose lists of texts HDF5 would go round forever.

    A heap ("Global Heap" in the HDF5 File Format Specification) is a row of objects, each with its
    size; the library trusts that the size of free space is not zero.
    """
    signature = b"GCOL\1\0\0\0"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(signature)
        while start >= 0:
            end = start + int.from_bytes(data[start + 8 : start + 16], "little")
            place = start + 16
            while place + 16 <= min(end, len(data)):
                free = data[place : place + 2] == b"\0\0"
                size = int.from_bytes(data[place + 8 : place + 16], "little")
                place += size if free else 16 + -(-size // 8) * 8
                if place > end or (free and not size):
                    raise _NotReadableError("is damaged: a list of texts in it does not end")
            start = data.find(signature, start + 8)


def _read_hdf5(path: Path, trust: bool, modules: tuple[ModuleType, ...]) -> ModelFile:
    _check_heaps(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _NotReadableError(f"is damaged: {in_a_line(error)}") from error
    with file:
        config = _json_of(file, "model_config")
        if config is None:
            known = {"layer_names", "layers", "vars", "_layer_checkpoint_dependencies"}
            # Of a subclassed model, Keras 3 names the groups by the attributes of the model.
            parts = [
                part for each in file.values() if isinstance(each, h5py.Group) for part in each
            ]
            if known & {*file, *file.attrs, *parts}:
                raise _NotReadableError(f"is {WEIGHTS_ONLY}")
            raise _NotReadableError("is an HDF5 file without a model of Keras")
        weights = file.get("model_weights")
        version = _text(file.attrs.get("keras_version")) or (
            _text(weights.attrs.get("keras_version")) if weights is not None else None
        )
        if version is not None and version.startswith("1."):
            raise _NotReadableError(
                f"was written by Keras {version}. Next step: load it with Keras 2.2 (Python 3.7, "
                "pip install keras==2.2.5 tensorflow==1.15.5) and save it again"
            )
        training = _json_of(file, "training_config")
        saved = _Saved(path, version, config, training, _objects(config, modules, trust), trust)
        if version is not None and not version.startswith("2."):
            return _read_keras_3(saved, ".h5")
        if weights is None:
            raise _NotReadableError("holds a model without its weights")

        def load(model: keras.Model, names: dict[str, str]) -> None:
            assign_weights(model, weight_groups(weights), names)

        return _read_keras_2(saved, load, _steps(file))


def _read_zip(path: Path, trust: bool, modules: tuple[ModuleType, ...]) -> ModelFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "config.json" not in names:
                what = "is a ZIP archive, but not of a model: it has no config.json"
                raise _NotReadableError(what)
            for info in archive.infolist():
                if info.file_size > max(_BOMB_BYTES, _BOMB_RATIO * info.compress_size):
                    raise _NotReadableError(
                        f"is no model: {info.filename} in it takes {info.compress_size:,} bytes "
                        f"and would unpack to {info.file_size:,}"
                    )
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
            version, training = (
                str(metadata.get("keras_version", "3")),
                config.get("compile_config"),
            )
            saved = _Saved(path, version, config, training, _objects(config, modules, trust), trust)
            if not version.startswith("2."):
                return _read_keras_3(saved, ".keras")
            if _WEIGHTS not in names:
                raise _NotReadableError("holds a model without its weights")
            with tempfile.TemporaryDirectory() as folder:
                archive.extract(_WEIGHTS, folder)

                def load(model: keras.Model, _: dict[str, str]) -> None:
                    model.load_weights(Path(folder, _WEIGHTS))

                return _read_keras_2(saved, load)
    except (zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError, EOFError) as error:
        raise _NotReadableError(f"is damaged: {in_a_line(error)}") from error
    except (OSError, NotImplementedError, RuntimeError, AttributeError) as error:
        raise _NotReadableError(f"cannot be read: {in_a_line(error)}") from error


def _read_keras_3(saved: _Saved, suffix: str) -> ModelFile:
    skipped = []
    with _suffixed(saved.path, suffix) as name:

        def load(compile: bool) -> keras.Model:
            return keras.saving.load_model(
                name, custom_objects=saved.objects, compile=compile, safe_mode=not saved.trust
            )

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = load(compile=True)
            except Exception:
                model = load(compile=False)
                _compile(model, saved, skipped)
    return ModelFile(
        path=str(saved.path),
        written_by=f"Keras {saved.version}",
        model=model,
        skipped=tuple(skipped),
    )


def _read_keras_2(
    saved: _Saved, load: Callable[[keras.Model, dict[str, str]], Any], steps: int | None = None
) -> ModelFile:
    """Make a model of what Keras 2 has saved.

    Args:
        saved: what the file says.
        load: gives a model its weights, whose layers may have other names now.
        steps: how often its optimizer had stepped.
    """
    version = saved.version or "2"
    translation = Translation(version, saved.objects)
    with keras.saving.custom_object_scope(saved.objects), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = keras.saving.deserialize_keras_object(
            translation.layer(saved.config), safe_mode=not saved.trust
        )
        if not isinstance(model, keras.Model):
            raise _NotReadableError(f"holds a {type(model).__name__}, not a model")
        if not model.built:
            raise _NotReadableError(
                "does not say the shape of the model's input. Next step: where it was made, call "
                "the model on data before you save it"
            )
        load(model, translation.names)
        translation.changes += steepen_hard_sigmoids(layer_paths(model))
    skipped = translation.skipped
    if saved.training:
        _compile(model, saved, skipped)
    if model.compiled and steps is not None:
        model.optimizer.iterations.assign(steps)
    return ModelFile(
        path=str(saved.path),
        written_by=f"Keras {version}",
        model=model,
        changes=tuple(translation.changes),
        skipped=tuple(skipped),
    )


def _compile(model: keras.Model, saved: _Saved, skipped: list[Skipped]) -> None:
    """Compile a model as its file says; what cannot be taken over is added to `skipped`."""
    try:
        with keras.saving.custom_object_scope(saved.objects), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.compile(**compile_arguments(saved.training, skipped))
            model.optimizer.build(model.trainable_variables)
    except Exception as error:
        skipped.append(Skipped("compile", f"the model is not compiled: {in_a_line(error)}"))
    else:
        if len(model.optimizer.variables) > STEPS_AND_RATE:
            skipped.append(Skipped("optimizer", "its moments begin anew"))


def _objects(config: Any, modules: tuple[ModuleType, ...], trust: bool) -> dict[str, Any]:
    """The user's classes that a config names, under the names by which it does."""
    offered = {}
    for module in modules:
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "") == module.__name__
            of_keras = isinstance(value, type) and hasattr(value, "from_config")
            if own and (of_keras or (trust and callable(value))):
                offered[name] = value
    names = {name for name in strings_in(config) if name.rsplit(">", 1)[-1] in offered}
    return {**offered, **{name: offered[name.rsplit(">", 1)[-1]] for name in names}}


def strings_in(config: Any) -> Iterator[str]:
    """Give every text in a config: the names of classes and functions are among them."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict | list):
        for each in config.values() if isinstance(config, dict) else config:
            yield from strings_in(each)


@contextlib.contextmanager
def _suffixed(path: Path, suffix: str) -> Iterator[Path]:
    """The file under a name from which Keras knows its format."""
    if path.suffix == suffix:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"model{suffix}")
        try:
            link.symlink_to(path.resolve())
        except OSError:  # Windows allows links to some users only
            shutil.copyfile(path, link)
        yield link


def _json_of(file: h5py.File, name: str) -> Any:
    text = _text(file.attrs.get(name))
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise _NotReadableError(f"is damaged: {name} is no JSON: {in_a_line(error)}") from error


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)


def _steps(file: h5py.File) -> int | None:
    """How often the optimizer had stepped, where an .h5 file says so."""
    group = file.get("optimizer_weights")
    found = []

    def look(name: str, item: Any) -> None:
        if re.search(r"(^|/)(iter|iteration|iterations):0$", name) and item.shape == ():
            found.append(int(item[()]))

    if isinstance(group, h5py.Group):
        group.visititems(look)
    return found[0] if found else None


def _why_not(error: Exception) -> _NotReadableError:
    """What Keras said, as the rest of a sentence, with what would help."""
    if isinstance(error, _NotReadableError):
        return error
    text = str(error)
    if "safe_mode=False" in text or "enable_unsafe_deserialization" in text:
        return _NotReadableError(
            "holds Python code (a Lambda layer), which loading would run. If you trust the file, "
            "say so: --trust, or open_model(..., trust=True)"
        )
    if "bad marshal data" in text or "EOF read where" in text:
        return _NotReadableError(
            "holds Python code (a Lambda layer) of another version of Python, which this one "
            "cannot run. Next step: where it was made, put a layer of your own in its place"
        )
    missing = re.search(r"Could not locate (class|function) '(.+?)'", text)
    if missing:
        return _NotReadableError(
            f"needs the custom {missing[1]} {missing[2]!r}. Name the module that defines it: "
            "--import MODULE, or open_model(..., modules=[module])"
        )
    return _NotReadableError(f"cannot be loaded: {in_a_line(error)}")
