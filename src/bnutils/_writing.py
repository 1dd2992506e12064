"""Writes files so that nothing is lost: an old file stays whole until the new one is.

A signal that asks the process to stop waits until what has been begun is finished or cleared away.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Signals", "StoppedError", "is_stream", "replace", "write_text"]

BESIDE = ".bnutils-"  # begins the names of folders in which new files are written
A_DAY = 24 * 3600.0


class StoppedError(KeyboardInterrupt):
    """A signal asked the process to stop.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        """Take the number of the signal."""
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Signals:
    """A context in which SIGINT, SIGTERM and SIGHUP raise `StoppedError`, not before it is due.

    Only the main thread gets signals; in another one, and where a signal is ignored, as under
    nohup, nothing changes.
    """

    def __init__(self) -> None:
        """Start with nothing noted."""
        self._held = 0
        self._noted: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Put the handlers in place."""
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the old handlers back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        if not self._held:
            raise StoppedError(number)

    def check(self) -> None:
        """Raise `StoppedError` if a signal has come, even if somebody caught the first one."""
        if self._noted is not None:
            raise StoppedError(self._noted)

    def hold(self) -> _Held:
        """A context in which signals are only noted; at its end they are raised."""
        return _Held(self)


class _Held:
    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def __enter__(self) -> None:
        self._signals._held += 1

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals._held -= 1
        if kind is None:
            self._signals.check()


def is_stream(path: Path) -> bool:
    """Whether a path leads to something that is no regular file: a device, a FIFO, /dev/stdout.

    Raises:
        OSError: if that cannot be found out.
    """
    if _descriptor(path) is not None:
        return True
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _descriptor(path: Path) -> int | None:
    """The number behind /dev/stdout, /dev/fd/3 and links to them: where they lead is in use."""
    name = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        folder = os.path.realpath(os.path.dirname(name))
        name = os.path.join(folder, os.path.basename(name))
        own = re.fullmatch(rf"(?:/proc/{os.getpid()}(?:/task/\d+)?|/dev)/fd/(\d+)", name)
        if own:
            return int(own[1])
        if not os.path.islink(name):
            return None
        name = os.path.join(folder, os.readlink(name))
    return None


def write_text(target: Path, text: str, signals: Signals) -> None:
    """Write a text to a file, which is replaced, or to a stream, which is written to.

    Args:
        target: the file, device or FIFO.
        text: what it gets, in UTF-8; what that cannot hold is spelled out.
        signals: the context for signals.

    Raises:
        OSError: if it cannot be written.
    """
    data = text.encode("utf-8", "backslashreplace")
    if not is_stream(target):
        replace(target, lambda path: path.write_bytes(data), signals)
        return
    number = _descriptor(target)
    # Opening /dev/stdout anew would cut off what stands in a file behind it.
    with open(target if number is None else os.dup(number), "wb") as stream:
        stream.write(data)


def replace(target: Path, write: Callable[[Path], Any], signals: Signals | None = None) -> None:
    """Write a file beside the target and put it in its place: a failure leaves the old one.

    So of several processes that write one file the last wins, and no reader ever sees half of it.

    Args:
        target: the file; links to it stay links.
        write: writes the new file to the path that it is given.
        signals: the context for signals; they wait until the new file is there or cleared away.

    Raises:
        OSError: if it cannot be written, or is a device or a FIFO.
        StoppedError: if a signal came meanwhile; the target is as it was, or new and whole.
    """
    if is_stream(target):
        raise OSError("expected a file, got a device, a pipe or a folder")
    target = target.resolve()
    signals = signals or Signals()
    with signals.hold():
        _clear_leftovers(target.parent)
        folder = tempfile.mkdtemp(dir=target.parent, prefix=BESIDE)
        try:
            new = Path(folder, target.name)
            write(new)
            signals.check()
            if target.exists():
                shutil.copymode(target, new)
            os.replace(new, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left in a folder: nobody writes a file for a day."""
    for left in folder.glob(f"{BESIDE}*"):
        with contextlib.suppress(OSError):  # another process was quicker
            if time.time() - left.stat().st_mtime > A_DAY:
                shutil.rmtree(left)
