"""The doctor in a shell: `bnutils audit model.keras`, also as `python -m bnutils`.

Exit status: 0 if the model is sound or the repair was written, 1 if the audit has a finding of
level warning or above, 2 if it could not look, or not at all of it. stdout carries the report and
nothing else.
"""

import argparse
import contextlib
import importlib
import os
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import bnutils
from bnutils import _writing
from bnutils._extras import MissingExtraError, extra
from bnutils._formats import file_kind
from bnutils._npz import read_npz

__all__ = ["main"]

Arrays = dict[str, np.ndarray]

SOUND, FINDINGS, COULD_NOT_LOOK = 0, 1, 2
BY_SIGNAL = 128  # plus its number: what a shell gives for a process that a signal ended

DATA_HELP = """\
The data file: an .npz file with an array `x`, one row for each example, and, if you have them, the
targets `y`, as numpy.savez("data.npz", x=x, y=y) writes it. For a model with several inputs it has
one array for each, under the name of the input or x_NAME; for several outputs, y_NAME.
"""
TRUST_HELP = """\
The model's file: .keras or .h5, of Keras 3 or Keras 2. It can hold Python code (Lambda layers) and
can need yours (custom layers, losses). Code in the file runs only with --trust. Your classes are
found in the modules that you name, registered or not: --import my_layers.
"""
WRITTEN = "Exit status: 0 written, 2 could not; then no file has changed.\n"
EXAMPLES = {
    "audit": """\
Examples:
  bnutils audit model.keras
  bnutils audit old.h5 --data train.npz --batch-size 32 --train-size 50000
  bnutils audit model.keras --format json --output report.json

Exit status: 0 sound, 1 a finding of level warning or above, 2 could not look, or not at all of it:
a model without batch normalization, parts that cannot be looked into, data that do not suit.
""",
    "recalibrate": """\
Examples:
  bnutils recalibrate model.keras --data train.npz --output mended.keras
  bnutils recalibrate model.keras --data train.npz --in-place

The model is compared before and after on these rows. If it would become worse, nothing is written.
Frozen layers are left alone unless --layer names them.

Exit status: 0 written, 1 not written (worse, or all layers are frozen: the report says which),
2 could not; then no file has changed.
""",
    "fold": f"""\
Examples:
  bnutils fold model.keras --output small.keras
  bnutils fold model.keras --output small.keras --data test.npz

Both models are run on the first rows of the data, or on random ones, and have to agree.

{WRITTEN}""",
    "convert": f"""\
The new file is read back before it takes its place: weights must be equal, and outputs on random
examples too.

Examples:
  bnutils convert old.h5 --output new.keras

{WRITTEN}""",
}


class RefusalError(Exception):
    """What the user asked for cannot be done; the message says why, in one line."""


@dataclass(frozen=True)
class Outcome:
    """What a command has to show, where that goes, and its exit status."""

    result: Any
    status: int = SOUND
    output: Path | None = None  # of the report; None is stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; those of the process if None.

    Returns:
        The exit status.
    """
    _fill_closed_descriptors()
    try:
        words = sys.argv[1:] if argv is None else argv
        arguments = _parser().parse_args(words or ["--help"])
    except SystemExit:
        # --help and --version have printed: a full disk must be heard of.
        failure = _flush()
        if failure:
            return _fail(failure)
        raise
    try:
        with _writing.Signals() as signals:
            arguments.signals = signals
            with _stdout_for_the_report_alone():
                outcome = arguments.run(arguments)
            signals.check()
            return _show(outcome, arguments)
    except RefusalError as error:
        return _fail(str(error))
    except KeyboardInterrupt as error:
        _say("interrupted")
        return BY_SIGNAL + getattr(error, "signal", signal.SIGINT)
    except Exception:
        # Python's own status for a crash is 1, which here means findings.
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
        return _fail("stopped by the error above. If model.predict works, it is ours: report it")


# The commands


def _audit(arguments: argparse.Namespace) -> Outcome:
    output = _checked_output(arguments, suffix=None)
    model, data = _model_and_data(arguments)
    with _expected_refusals():
        report = _doctor().audit(
            model, data, batch_size=arguments.batch_size, train_size=arguments.train_size
        )
    status = SOUND if report.sound else FINDINGS if report.faulty else COULD_NOT_LOOK
    return Outcome(report, status, output)


def _recalibrate(arguments: argparse.Namespace) -> Outcome:
    output = _checked_output(arguments, suffix=".keras")
    model, data = _model_and_data(arguments)
    with _expected_refusals():
        done = _doctor().recalibrate(
            model,
            data,
            layers=arguments.layers,
            batch_size=arguments.batch_size,
            method=arguments.method,
            keep=arguments.keep,
        )
    if not done.kept:
        return Outcome(done, FINDINGS)
    _replace(output, model.save, arguments)
    return Outcome(done)


def _fold(arguments: argparse.Namespace) -> Outcome:
    output = _checked_output(arguments, suffix=".keras")
    model, data = _model_and_data(arguments)
    with _expected_refusals():
        folding = _doctor().fold(model, data)
    _replace(output, folding.model.save, arguments)
    return Outcome(folding)


def _convert(arguments: argparse.Namespace) -> Outcome:
    output = _checked_output(arguments, suffix=".keras")
    with _expected_refusals():
        file_kind(arguments.model)
        modules = _imported(arguments)
        try:
            converted = _doctor().convert(
                arguments.model,
                output,
                trust=arguments.trust,
                modules=modules,
                signals=arguments.signals,
            )
        except OSError as error:
            raise RefusalError(f"cannot write {output}: {_in_a_line(error)}") from error
    return Outcome(converted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bnutils",
        description="Finds what is wrong with the batch normalization in a Keras model, mends it.",
        epilog="`bnutils COMMAND --help` has examples.",
    )
    parser.add_argument("--version", action="version", version=f"bnutils {bnutils.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable, description: str, data: bool, in_place: bool
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=description,
            description=f"{description[0].upper()}{description[1:]}.",
            epilog="\n".join([EXAMPLES[name], *([DATA_HELP] if data else []), TRUST_HELP]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run, data=None, in_place=False)
        sub.add_argument("model", metavar="MODEL", type=_path, help="the model's file")
        if data:
            sub.add_argument(
                "--data",
                metavar="FILE.npz",
                type=_path,
                required=name == "recalibrate",
                help="training data, see below" if name != "fold" else "see below",
            )
        if name != "audit":
            where = sub.add_mutually_exclusive_group(required=True)
            where.add_argument(
                "--output", metavar="OUT.keras", type=_path, help="where the new model goes"
            )
            if in_place:
                where.add_argument(
                    "--in-place", action="store_true", help="overwrite the model's own file"
                )
        sub.add_argument("--format", choices=("text", "json"), default="text")
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
    audit.add_argument("--batch-size", metavar="N", type=_positive, help="rows in a batch")
    audit.add_argument(
        "--train-size", metavar="N", type=_positive, help="examples in the training set"
    )
    audit.add_argument("--output", metavar="FILE", type=_path, help="write there, not to stdout")
    recalibrate = command(
        "recalibrate", _recalibrate, "estimate the moving statistics anew, from data", True, True
    )
    recalibrate.add_argument("--batch-size", metavar="N", type=_positive, help="rows in a batch")
    recalibrate.add_argument(
        "--layer",
        dest="layers",
        metavar="PATH",
        action="append",
        help="recalibrate this layer or part, even if it is frozen, and no others; repeatable",
    )
    recalibrate.add_argument(
        "--keep",
        choices=("unless-worse", "always"),
        default="unless-worse",
        help="when to write the new statistics; default: %(default)s",
    )
    recalibrate.add_argument(
        "--method",
        choices=("layerwise", "one-pass"),
        default="layerwise",
        help="layer after layer (exact), or all at once (quick); default: %(default)s",
    )
    command("fold", _fold, "merge batch normalization into the layers around it", True, True)
    command("convert", _convert, "write an old model file as Keras 3 reads it", False, False)
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected the name of a file, got {text!r}")
    return Path(text)


# Files


def _checked_output(arguments: argparse.Namespace, suffix: str | None) -> Path | None:
    """The file to write, or None; refused before any work is done."""
    output = arguments.model if arguments.in_place else arguments.output
    can_be_in_place = arguments.run in (_recalibrate, _fold)
    if output is None:
        return None
    if suffix and output.suffix != suffix:
        if arguments.in_place:
            raise RefusalError(f"{output} would become a {suffix} file: say --output NAME{suffix}")
        raise RefusalError(f"expected an --output that ends in {suffix}, got {output}")
    try:
        if output.is_dir() or not output.parent.is_dir():
            raise RefusalError(
                f"cannot write to {output}: a folder, or in a folder that is not there"
            )
        if suffix and _writing.is_stream(output):
            raise RefusalError(
                f"cannot write to {output}: a model needs a file, this is a device or a pipe"
            )
        for source in () if arguments.in_place else filter(None, (arguments.model, arguments.data)):
            if output.exists() and source.exists() and output.samefile(source):
                hint = ": say --in-place if that is what you want" if can_be_in_place else ""
                raise RefusalError(f"--output is the input file {source}{hint}")
    except OSError as error:
        raise RefusalError(f"cannot write to {output}: {error.strerror}") from error
    return output


def _replace(target: Path, write: Callable[[Path], Any], arguments: argparse.Namespace) -> None:
    try:
        _writing.replace(target, write, arguments.signals)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise RefusalError(f"cannot write {target}: {_in_a_line(error)}") from error


def _model_and_data(arguments: argparse.Namespace) -> tuple[Any, tuple | None]:
    arrays = None
    if arguments.data:
        with _expected_refusals():
            arrays = read_npz(arguments.data)
    model = _open(arguments)
    return model, _data(arrays, model)


def _open(arguments: argparse.Namespace) -> Any:
    """The model, if its file is one that is safe to open; stderr says what is other than there."""
    with _expected_refusals():
        file_kind(arguments.model)
        modules = _imported(arguments)
        opened = _doctor().open_model(arguments.model, trust=arguments.trust, modules=modules)
    if opened.changes or opened.skipped:
        _say(str(opened))
    return opened.model


def _imported(arguments: argparse.Namespace) -> list[ModuleType]:
    if arguments.modules:
        sys.path.insert(0, os.getcwd())
    modules = []
    for name in arguments.modules:
        try:
            modules.append(importlib.import_module(name))
        except (Exception, SystemExit) as error:
            raise RefusalError(f"cannot import {name}: {_in_a_line(error)}") from error
    return modules


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
    from bnutils._keras import keras

    return keras.tree.map_structure(lambda tensor: values[tensor.name], model.input)


def _targets(arrays: Arrays) -> Any:
    return arrays.pop("y") if "y" in arrays else _prefixed(arrays, "y_")


def _prefixed(arrays: Arrays, prefix: str) -> Arrays | None:
    names = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays.pop(name) for name in names} or None


# Keras, and what it prints


def _doctor() -> ModuleType:
    try:
        from bnutils import doctor
    except MissingExtraError as error:
        raise RefusalError(str(error)) from error
    except ImportError as error:
        raise RefusalError(f"Keras does not start: {_in_a_line(error)}") from error
    return doctor


@contextlib.contextmanager
def _expected_refusals() -> Iterator[None]:
    """ValueError: data or a model it cannot take. RuntimeError: a proof that failed."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise RefusalError(_short(error)) from error


def _fill_closed_descriptors() -> None:
    """Let no file that is opened later become descriptor 0, 1 or 2 because that one is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextlib.contextmanager
def _stdout_for_the_report_alone() -> Iterator[None]:
    """Send to stderr what Keras, TensorFlow (past Python, to descriptor 1) and user code print."""
    if sys.stdout is not None:
        sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _show(outcome: Outcome, arguments: argparse.Namespace) -> int:
    """Print or write the result; the exit status."""
    result = outcome.result
    shown = result.to_json() if arguments.format == "json" else result
    if outcome.output:
        try:
            _writing.write_text(outcome.output, f"{shown}\n", arguments.signals)
        except BrokenPipeError:
            pass  # its reader has seen enough
        except OSError as error:
            return _fail(f"cannot write {outcome.output}: {error.strerror or error}")
        return outcome.status
    if sys.stdout is None:
        return _fail("cannot print the report: stdout is closed")
    try:
        with extra("doctor"):  # here, so that --help and --version need nothing
            from rich.console import Console

        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        console = Console(highlight=False)
        if console.is_terminal and hasattr(shown, "__rich_console__"):
            console.print(shown)
        else:
            print(shown)
    except OSError as error:
        failure = _cannot_print(error)
    else:
        failure = _flush()
    return _fail(failure) if failure else outcome.status


def _flush() -> str | None:
    """Send out what was printed; why that could not be done, or None."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return _cannot_print(error)
    return None


def _cannot_print(error: OSError) -> str | None:
    # Python must not complain when it flushes again at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return None  # the reader of the pipe has seen enough
    return f"cannot print the report: {error.strerror}"


def _fail(message: str) -> int:
    _say(message)
    return COULD_NOT_LOOK


def _say(message: str) -> None:
    """A line on stderr; if that is closed or full, nothing can be said."""
    if sys.stderr is None:
        return
    try:
        print(f"bnutils: {message}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _in_a_line(error: BaseException) -> str:
    text = _short(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _short(error: BaseException) -> str:
    # Keras puts terminal colors and many lines into its messages.
    plain = re.sub(r"\x1b\[[\d;]*m", "", str(error))
    return textwrap.shorten(plain, 700, placeholder=" ...")
