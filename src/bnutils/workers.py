"""Several processes on this machine that train as one: TensorFlow's workers, started and ended.

`run` starts the processes, tells each where the others are, calls a function in each of them, and
gives back what they return. None of them outlives the call, whatever happens: also when it is
interrupted, and when the process that made it is killed. What a worker has started ends with it,
except on Windows.

Example:
    >>> run(lambda index: f"worker {index}", count=2)
    ['worker 0', 'worker 1']
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bnutils._extras import extra

__all__ = ["run"]

HOST = "127.0.0.1"
TRIES = 3  # with other ports, where another program took one before the worker could
LINES = 12  # of what a worker said before it failed

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class _TakenError(Exception):
    """Another program took a port before a worker could."""


def run(function: Callable[[int], Any], count: int = 2, *, timeout: float = 120) -> list[Any]:
    """Call a function in several new processes at once, and wait for what they return.

    Each process finds `TF_CONFIG` in its environment, so that in the function
    `tf.distribute.MultiWorkerMirroredStrategy()` joins all of them. It runs on the processor, with
    one thread, whatever the environment says to OpenMP, OpenBLAS, MKL and TensorFlow.

    The workers call each other at the loopback address. TensorFlow's server nevertheless listens on
    every interface of the machine while they run, without a password, and can't be told otherwise:
    don't start it on a network that you don't trust.

    The ports are free when they are chosen. When another program takes one of them before the
    worker does, all workers are started again with other ports, up to three times in all: what the
    function did until then, such as writing a file, is done again.

    Args:
        function: called with the number of the worker, from 0. Also one of a notebook: it is sent
            there, with the global names that it uses. Best import inside of it.
        count: how many workers.
        timeout: seconds that all of it may take.

    Returns:
        What each worker returned, in their order. It has to be picklable.

    Raises:
        TypeError: the function is none, or it uses something that can't be sent to a process.
        ValueError: count is no number of workers, or the time is not positive.
        RuntimeError: a worker failed; the message ends with the last lines of what it said, and
            of what others said that ended at the same time.
        TimeoutError: they were not all done in time.

    Example:
        >>> import os
        >>> first, second = run(lambda index: os.getpid())
        >>> first == second
        False
    """
    if not callable(function):
        raise TypeError(f"expected a function of the worker's number, got {function!r}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"expected count as a whole number from 1, got {count!r}")
    if not timeout > 0:
        raise ValueError(f"expected timeout in seconds, above 0, got {timeout!r}")
    sent, end = _packed(function), time.monotonic() + timeout
    for left in reversed(range(TRIES)):
        with TemporaryDirectory(prefix="bnutils-workers-", ignore_cleanup_errors=True) as folder:
            (Path(folder) / "function").write_bytes(sent)
            try:
                return _run_once(Path(folder), count, end, timeout)
            except _TakenError as taken:
                if not left:
                    raise taken.__cause__ from None
    raise AssertionError("unreachable")


def _packed(function: Callable) -> bytes:
    """The function as bytes, with what it uses."""
    with extra("book"):
        import cloudpickle

    try:
        return cloudpickle.dumps(function)
    except Exception as error:  # whatever a foreign object raises here
        cause = error
    guilty = []
    with contextlib.suppress(TypeError):  # not every callable is a Python function
        used = inspect.getclosurevars(function)
        for name, value in {**used.globals, **used.nonlocals}.items():
            try:
                cloudpickle.dumps(value)
            except Exception:
                guilty.append(name)
    raise TypeError(
        "expected a function that can be sent to another process, got one that can't: "
        f"{type(cause).__name__}: {cause}."
        + (f" Make inside of it what it uses as {', '.join(guilty)}." if guilty else "")
    ) from cause


def _run_once(folder: Path, count: int, end: float, timeout: float) -> list[Any]:
    ports, processes = _free_ports(count), []
    try:
        for index in range(count):
            processes.append(_start(folder, index, ports))
        results = [folder / str(index) for index in range(count)]
        while not all(map(Path.exists, results)):
            ended = [process.poll() for process in processes]
            if any(status is not None for status in ended):
                raise RuntimeError(_failure(folder, ended))
            if time.monotonic() > end:
                raise TimeoutError(_unfinished(folder, results, timeout))
            time.sleep(0.02)
    except RuntimeError as failure:
        _end(processes)
        if any(map(_taken, ports)):
            raise _TakenError from failure
        raise
    finally:
        _end(processes)
    return [pickle.loads(result.read_bytes()) for result in results]


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; held together until all are known, so that they differ."""
    held = []
    try:
        for _ in range(count):
            held.append(socket.create_server((HOST, 0)))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _taken(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return True
    return False


def _start(folder: Path, index: int, ports: list[int]) -> subprocess.Popen:
    cluster = {"worker": [f"{HOST}:{port}" for port in ports]}
    task = {"type": "worker", "index": index}
    environment = {
        **os.environ,
        **ENVIRONMENT,
        **_past_proxies(),
        "PYTHONPATH": os.pathsep.join(place or os.getcwd() for place in sys.path),
        "TF_CONFIG": json.dumps({"cluster": cluster, "task": task}),
    }
    with (folder / f"{index}.said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "bnutils._worker", str(folder), str(index)],
            stdin=subprocess.PIPE,  # a worker ends when this is closed, also by our own end
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a group of its own, to be ended as a whole
        )


def _past_proxies() -> dict[str, str]:
    """What keeps calls within this machine from the proxies for the rest of the world."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    kept = {name: os.environ.get(name) or given for name in ("no_proxy", "no_grpc_proxy")}
    return {name: f"{hosts},{HOST}" if hosts else HOST for name, hosts in kept.items()}


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):  # nobody is left of it
                os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()
        process.stdin.close()


def _said(folder: Path, index: int) -> str:
    text = (folder / f"{index}.said").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.rstrip().splitlines()[-LINES:])


def _failure(folder: Path, ended: list[int | None]) -> str:
    """Of all that ended: a worker that fails takes others along, which complain as loudly."""
    statuses = {index: status for index, status in enumerate(ended) if status is not None}
    told = " and ".join(f"worker {i} ended with status {it}" for i, it in statuses.items())
    said = (f"Worker {i} said last:\n{_said(folder, i) or 'nothing'}" for i in statuses)
    return (
        f"expected {len(ended)} workers to return, but {told}, and what was left was stopped. "
        + "\n".join(said)
    )


def _unfinished(folder: Path, results: list[Path], timeout: float) -> str:
    late = [index for index, result in enumerate(results) if not result.exists()]
    said = "\n".join(text for index in late if (text := _said(folder, index)))
    return (
        f"expected {len(results)} workers to be done in {timeout:g} seconds, but worker "
        f"{' and '.join(map(str, late))} had not returned, and all were stopped. Give a larger "
        "timeout, or look for a worker that waits for one that never comes."
        + (f" They said last:\n{said}" if said else "")
    )
