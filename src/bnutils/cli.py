"""The doctor in a shell: `bnutils audit model.keras`, also as `python -m bnutils`.

Exit status: 0 if the model is sound or the repair was written, 1 if the audit has a finding of
level warning or above, 2 if it could not look. stdout carries the report and nothing else.
"""

import argparse
import contextlib
import importlib
import os
import re
import shutil
import sys
import tempfile
import textwrap
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from rich.console import Console

import bnutils

__all__ = ["main"]

Arrays = dict[str, np.ndarray]

SOUND, FINDINGS, COULD_NOT_LOOK, INTERRUPTED = 0, 1, 2, 130

DATA_HELP = """\
The data file: an .npz file with an array `x`, one row for each example, and, if you have them, the
targets `y`, as numpy.savez("data.npz", x=x, y=y) writes it. For a model with several inputs it has
one array for each, under the name of the input or x_NAME; for several outputs, y_NAME.
"""
TRUST_HELP = """\
A model file can hold Python code (Lambda layers) and can need yours (custom layers, losses). Code
in the file runs only with --trust. Your code is found if you name the module that registers it
with keras.saving.register_keras_serializable: --import my_layers.
"""
EXAMPLES = {
    "audit": """\
Examples:
  bnutils audit model.keras
  bnutils audit model.keras --data train.npz --batch-size 32 --train-size 50000
  bnutils audit model.keras --format json --output report.json

Exit status: 0 sound, 1 a finding of level warning or above, 2 could not look.
""",
    "recalibrate": """\
Examples:
  bnutils recalibrate model.keras --data train.npz --output mended.keras
  bnutils recalibrate model.keras --data train.npz --in-place

Exit status: 0 written, 2 could not; then no file has changed.
""",
    "fold": """\
Examples:
  bnutils fold model.keras --output small.keras

Exit status: 0 written, 2 could not; then no file has changed.
""",
}


class RefusalError(Exception):
    """What the user asked for cannot be done; the message says why, in one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; those of the process if None.

    Returns:
        The exit status.
    """
    arguments = _parser().parse_args(argv)
    try:
        with _stdout_for_the_report_alone():
            result, status = arguments.run(arguments)
        _print(result)
    except RefusalError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("bnutils: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        # Python's own status for a crash is 1, which here means findings.
        traceback.print_exc()
        return _fail("stopped by the error above. If model.predict works, it is ours: report it")
    return status


def _audit(arguments: argparse.Namespace) -> tuple[Any, int]:
    output = _checked_output(arguments, suffix=None)
    arrays = _read_arrays(arguments.data)
    model = _load(arguments)
    data = _data(arrays, model)
    with _expected_refusals():
        report = _doctor().audit(
            model, data, batch_size=arguments.batch_size, train_size=arguments.train_size
        )
    shown = report.to_json() if arguments.format == "json" else report
    if output:
        _replace(output, lambda path: path.write_text(f"{shown}\n", encoding="utf-8"))
    return None if output else shown, SOUND if report.sound else FINDINGS


def _recalibrate(arguments: argparse.Namespace) -> tuple[Any, int]:
    output = _checked_output(arguments, suffix=".keras")
    arrays = _read_arrays(arguments.data)
    model = _load(arguments)
    data = _data(arrays, model)
    with _expected_refusals():
        moved = _doctor().recalibrate(
            model, data, batch_size=arguments.batch_size or 256, method=arguments.method
        )
    _replace(output, model.save)
    return moved, SOUND


def _fold(arguments: argparse.Namespace) -> tuple[Any, int]:
    output = _checked_output(arguments, suffix=".keras")
    model = _load(arguments)
    with _expected_refusals():
        folded = _doctor().fold(model)
    _replace(output, folded.save)
    return folded.fold_plan, SOUND


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bnutils",
        description="Finds what is wrong with the batch normalization in a Keras model, mends it.",
        epilog="`bnutils COMMAND --help` has examples.",
    )
    parser.add_argument("--version", action="version", version=f"bnutils {bnutils.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable, description: str, data: bool, writes_a_model: bool
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=description,
            description=f"{description[0].upper()}{description[1:]}.",
            epilog="\n".join([EXAMPLES[name], *([DATA_HELP] if data else []), TRUST_HELP]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run, data=None, in_place=False)
        sub.add_argument("model", metavar="MODEL.keras", type=Path, help="the model's file")
        if data:
            sub.add_argument(
                "--data",
                metavar="FILE.npz",
                type=Path,
                required=writes_a_model,
                help="training data, see below",
            )
            sub.add_argument("--batch-size", metavar="N", type=_positive, help="rows in a batch")
        if writes_a_model:
            where = sub.add_mutually_exclusive_group(required=True)
            where.add_argument(
                "--output", metavar="OUT.keras", type=Path, help="where the new model goes"
            )
            where.add_argument(
                "--in-place", action="store_true", help="overwrite the model's own file"
            )
        sub.add_argument(
            "--trust", action="store_true", help="run Python code that the model file holds"
        )
        sub.add_argument(
            "--import",
            dest="modules",
            metavar="MODULE",
            action="append",
            default=[],
            help="import this module first, from here or from what is installed; repeatable",
        )
        return sub

    audit = command("audit", _audit, "say what is wrong with a model", True, False)
    audit.add_argument(
        "--train-size", metavar="N", type=_positive, help="examples in the training set"
    )
    audit.add_argument("--format", choices=("text", "json"), default="text")
    audit.add_argument("--output", metavar="FILE", type=Path, help="write there, not to stdout")
    recalibrate = command(
        "recalibrate", _recalibrate, "estimate the moving statistics anew, from data", True, True
    )
    recalibrate.add_argument(
        "--method",
        choices=("layerwise", "one-pass"),
        default="layerwise",
        help="layer after layer (exact), or all at once (quick); default: %(default)s",
    )
    command("fold", _fold, "merge batch normalization into the layers around it", False, True)
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _checked_output(arguments: argparse.Namespace, suffix: str | None) -> Path | None:
    """The file to write, or None; refused before any work is done."""
    if arguments.in_place:
        return arguments.model.resolve()
    output = arguments.output
    if output is None:
        return None
    if suffix and output.suffix != suffix:
        raise RefusalError(f"expected an --output that ends in {suffix}, got {output}")
    if output.is_dir() or not output.parent.is_dir():
        raise RefusalError(f"cannot write to {output}: a folder, or in a folder that is not there")
    for source in filter(None, (arguments.model, arguments.data)):
        if output.exists() and source.exists() and output.samefile(source):
            hint = ": say --in-place if that is what you want" if suffix else ""
            raise RefusalError(f"--output is the input file {source}{hint}")
    return output.resolve()


def _replace(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside the target and put it in its place: a failure leaves the old one."""
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bnutils-") as folder:
            new = Path(folder, target.name)
            write(new)
            if target.exists():
                shutil.copymode(target, new)
            os.replace(new, target)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise RefusalError(f"cannot write {target}: {_in_a_line(error)}") from error


def _load(arguments: argparse.Namespace) -> Any:
    """The model, if its file is one that is safe to open."""
    path = arguments.model
    _check_format(path)
    keras = _start_keras()
    if arguments.modules:
        sys.path.insert(0, os.getcwd())
    for module in arguments.modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise RefusalError(f"cannot import {module}: {_in_a_line(error)}") from error
    try:
        return keras.saving.load_model(path, safe_mode=not arguments.trust)
    except Exception as error:
        raise RefusalError(_why_not_loaded(path, error)) from error


def _check_format(path: Path) -> None:
    if not path.exists():
        raise RefusalError(f"there is no file {path}")
    name = path.name
    kind = None
    if path.is_dir():
        kind = (
            "a SavedModel, which Keras 3 cannot open as a model"
            if (path / "saved_model.pb").exists()
            else "a folder"
        )
    elif name.endswith((".weights.h5", ".weights.json", ".index")) or ".data-0" in name:
        kind = "weights without a model: build the model and load them into it"
    elif name.endswith((".h5", ".hdf5")):
        kind = "in the old HDF5 format: open it with keras.saving.load_model"
    elif path.suffix != ".keras":
        kind = "no .keras file"
    if kind:
        raise RefusalError(f"{path} is {kind}. Expected what model.save('model.keras') writes")
    try:
        with zipfile.ZipFile(path) as archive:
            archive.getinfo("config.json")
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise RefusalError(f"{path} is not a Keras model: {_in_a_line(error)}") from error


def _why_not_loaded(path: Path, error: Exception) -> str:
    text = str(error)
    if "safe_mode=False" in text:
        return (
            f"{path} holds Python code (a Lambda layer), which loading would run. If you trust "
            "the file, say --trust"
        )
    missing = re.search(r"Could not locate (class|function) '(.+?)'", text)
    if missing:
        return (
            f"{path} needs the custom {missing[1]} {missing[2]!r}. Name the module that registers "
            "it with keras.saving.register_keras_serializable: --import MODULE"
        )
    return f"{path} cannot be loaded: {_in_a_line(error)}"


def _read_arrays(path: Path | None) -> Arrays | None:
    """The arrays of an .npz file by name; None without a file."""
    if path is None:
        return None
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise RefusalError(f"{path} is one array. Expected an .npz file: numpy.savez(..., x=x)")
        with file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RefusalError(f"{path} is not an .npz file of arrays: {_in_a_line(error)}") from error


def _data(arrays: Arrays | None, model: Any) -> tuple | None:
    """`(x,)` or `(x, y)` in the structure of the model's inputs; None without arrays."""
    if arrays is None:
        return None
    rest = dict(arrays)
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    x, y = _inputs(rest, names, model), _targets(rest)
    if x is None or rest:
        expected = "x" if len(names) < 2 else ", ".join(f"x_{name}" for name in names)
        raise RefusalError(
            f"expected data with arrays named {expected}, and perhaps y, got "
            f"{', '.join(arrays) or 'none'}"
        )
    return (x,) if y is None else (x, y)


def _inputs(arrays: Arrays, names: list[str], model: Any) -> Any:
    """Take the arrays of the inputs out of a dict; None if one is missing."""
    if len(names) < 2:
        # The inputs of a subclassed model have no names but those that its call reads.
        return arrays.pop("x") if "x" in arrays else _prefixed(arrays, "x_")
    keys = {name: key for name in names for key in (name, f"x_{name}") if key in arrays}
    if len(keys) < len(names):
        return None
    values = {name: arrays.pop(key) for name, key in keys.items()}
    return _start_keras().tree.map_structure(lambda tensor: values[tensor.name], model.input)


def _targets(arrays: Arrays) -> Any:
    return arrays.pop("y") if "y" in arrays else _prefixed(arrays, "y_")


def _prefixed(arrays: Arrays, prefix: str) -> Arrays | None:
    names = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays.pop(name) for name in names} or None


def _start_keras() -> ModuleType:
    try:
        from bnutils._keras import keras
    except ImportError as error:
        raise RefusalError(f"Keras does not start: {_in_a_line(error)}") from error
    return keras


def _doctor() -> ModuleType:
    from bnutils import doctor

    return doctor


@contextlib.contextmanager
def _expected_refusals() -> Iterator[None]:
    """ValueError: data or a model it cannot take. RuntimeError: a proof that failed."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise RefusalError(_short(error)) from error


@contextlib.contextmanager
def _stdout_for_the_report_alone() -> Iterator[None]:
    """Send to stderr what Keras, TensorFlow (past Python, to descriptor 1) and user code print."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _print(result: Any) -> None:
    if result is None:
        return
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        console = Console(highlight=False)
        if console.is_terminal and hasattr(result, "__rich_console__"):
            console.print(result)
        else:
            print(result)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the pipe has seen enough. Python must not complain when it flushes again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    print(f"bnutils: {message}", file=sys.stderr)
    return COULD_NOT_LOOK


def _in_a_line(error: BaseException) -> str:
    text = _short(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _short(error: BaseException) -> str:
    # Keras puts terminal colors and many lines into its messages.
    plain = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    return textwrap.shorten(plain, 400, placeholder=" ...")
