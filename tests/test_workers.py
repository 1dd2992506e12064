"""Processes that train as one: what they return, and that none of them is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bnutils import workers

ROOT = Path(__file__).resolve().parents[1]


def lives(pid):
    """Whether a process runs; one that ended and waits to be asked for its status doesn't."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def pids(folder, count=2):
    """The processes that wrote their number into a folder; waits until all have."""
    for _ in range(600):
        found = [int(text) for file in folder.iterdir() if (text := file.read_text())]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError("the workers did not start")


def assert_gone(found):
    for _ in range(600):
        if not any(map(lives, found)):
            return
        time.sleep(0.05)
    raise AssertionError(f"{found} outlived the call")


def writes_its_number(folder, then):
    def function(index):
        unfinished = folder.with_name(f"{folder.name}-{index}")
        unfinished.write_text(str(os.getpid()))
        unfinished.replace(folder / str(index))
        return then(index)

    return function


def sleeps(index):
    time.sleep(600)


def test_each_worker_knows_its_number_and_where_the_others_are():
    def function(index):
        return index, json.loads(os.environ["TF_CONFIG"])

    found = workers.run(function, count=3)
    assert [index for index, _ in found] == [0, 1, 2]
    assert [config["task"]["index"] for _, config in found] == [0, 1, 2]
    clusters = {json.dumps(config["cluster"]) for _, config in found}
    assert len(clusters) == 1
    addresses = json.loads(clusters.pop())["worker"]
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_a_worker_runs_on_one_thread_of_the_processor_and_keeps_proxies_out(monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "16")
    monkeypatch.setenv("http_proxy", "http://nowhere.example:3128")
    monkeypatch.setenv("no_proxy", "intranet.example")
    (found,) = workers.run(lambda index: dict(os.environ), count=1)
    assert found["TF_NUM_INTRAOP_THREADS"] == "1"
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    assert found["no_proxy"] == found["no_grpc_proxy"] == "intranet.example,127.0.0.1"


@pytest.mark.parametrize(
    ("given", "http", "grpc"),
    [
        ({}, "127.0.0.1", "127.0.0.1"),
        ({"NO_PROXY": "a"}, "a,127.0.0.1", "a,127.0.0.1"),
        ({"no_proxy": "a", "no_grpc_proxy": "b"}, "a,127.0.0.1", "b,127.0.0.1"),
    ],
)
def test_hosts_that_need_no_proxy_are_kept(monkeypatch, given, http, grpc):
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, hosts in given.items():
        monkeypatch.setenv(name, hosts)
    assert workers._past_proxies() == {"no_proxy": http, "no_grpc_proxy": grpc}


def test_no_worker_is_left_after_a_result(tmp_path):
    function = writes_its_number(tmp_path, lambda index: index)
    assert workers.run(function) == [0, 1]
    assert_gone(pids(tmp_path))


def test_no_worker_is_left_after_an_error_and_the_error_is_told(tmp_path):
    def then(index):
        if index == 1:
            time.sleep(0.2)
            raise LookupError("no such batch")
        time.sleep(600)

    with pytest.raises(RuntimeError, match=r"worker 1 ended with status 1[^$]*no such batch$"):
        workers.run(writes_its_number(tmp_path, then))
    assert_gone(pids(tmp_path))


def test_all_that_ended_at_the_same_time_are_told(tmp_path, monkeypatch):
    def fails(index):
        while index == 2 or not (tmp_path / "go").exists():
            time.sleep(0.01)
        print("lost" if index else "found no batch", flush=True)
        os._exit(3 + index)

    start, started = workers._start, []
    monkeypatch.setattr(
        workers, "_start", lambda *where: started.append(start(*where)) or started[-1]
    )

    def until_two_ended(seconds):
        (tmp_path / "go").touch()
        for process in started[:2]:
            process.wait()

    monkeypatch.setattr(workers.time, "sleep", until_two_ended)
    with pytest.raises(RuntimeError) as failure:
        workers.run(fails, count=3)
    said = str(failure.value)
    assert "worker 0 ended with status 3 and worker 1 ended with status 4" in said
    assert "Worker 0 said last:\nfound no batch\nWorker 1 said last:\nlost" in said
    assert "orker 2" not in said


def test_a_worker_that_raises_does_not_wait_for_its_threads_to_end():
    """It is the first to end, so that it is named, and not those that then miss it."""

    def raises(index):
        import threading

        threading.Thread(target=time.sleep, args=(600,)).start()
        raise LookupError("no such batch")

    with pytest.raises(RuntimeError, match=r"no such batch$"):
        workers.run(raises, count=1)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups on this system")
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_worker_started_ends_with_it(tmp_path, fails):
    def starts(index):
        program = "import time; time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", program])
        (tmp_path / str(index)).write_text(str(child.pid))
        return 1 // (not fails)

    if fails:
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            workers.run(starts, count=1)
    else:
        assert workers.run(starts, count=1) == [1]
    assert_gone(pids(tmp_path, count=1))


def test_no_worker_is_left_after_the_time_is_up(tmp_path, monkeypatch):
    def then(index):
        print("waiting for the other", flush=True)
        time.sleep(600)

    real = time.monotonic
    monkeypatch.setattr(
        workers.time, "monotonic", lambda: real() + 900 * (len(list(tmp_path.iterdir())) == 2)
    )
    told = r"2 workers to be done in 900 seconds, but worker 0 and 1 had not returned"
    with pytest.raises(TimeoutError, match=told):
        workers.run(writes_its_number(tmp_path, then), timeout=900)
    assert_gone(pids(tmp_path))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_worker_is_left_when_whoever_started_them_is_stopped(tmp_path, name):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} on this system")
    program = (
        "import signal, test_workers as t\n"
        "from pathlib import Path\n"
        # What a script has put into the background ignores Ctrl-C, and so do its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"t.workers.run(t.writes_its_number(Path({str(tmp_path)!r}), t.sleeps))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = pids(tmp_path)
        assert all(map(lives, found))
        process.send_signal(getattr(signal, name))
        assert process.wait(timeout=60) != 0
        assert_gone(found)
    finally:
        process.kill()
        process.wait()


def test_an_interrupted_call_ends_its_workers_at_once(tmp_path, monkeypatch):
    function = writes_its_number(tmp_path, sleeps)

    def interrupted(seconds):
        if len(list(tmp_path.iterdir())) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(workers.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.run(function)
    monkeypatch.undo()
    assert not any(map(lives, pids(tmp_path)))


def test_a_port_that_another_program_took_is_replaced(monkeypatch):
    import socket

    free, handed_out = workers._free_ports, []
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def first_a_taken_one(count):
            handed_out.append(free(count))
            if len(handed_out) == 1:
                handed_out[0][0] = taken.getsockname()[1]
            return handed_out[-1]

        def listens(index):
            import json
            import os
            import socket

            address = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][index]
            socket.create_server(("127.0.0.1", int(address.rpartition(":")[2])))
            return index

        monkeypatch.setattr(workers, "_free_ports", first_a_taken_one)
        assert workers.run(listens) == [0, 1]
        assert len(handed_out) == 2

        handed_out.clear()
        port = taken.getsockname()[1]
        monkeypatch.setattr(workers, "_free_ports", lambda count: handed_out.append(1) or [port])
        with pytest.raises(RuntimeError, match="worker 0 ended with status 1"):
            workers.run(listens, count=1)
        assert len(handed_out) == workers.TRIES


def test_what_cannot_be_sent_to_a_worker_is_named(monkeypatch):
    monkeypatch.setattr(workers, "_start", None)
    lock, number = threading.Lock(), 2

    def locks(index):
        with lock:
            return index + number

    with pytest.raises(TypeError, match=r"TypeError: .* inside of it what it uses as lock\.$"):
        workers.run(locks)
    with pytest.raises(TypeError, match="expected a function that can be sent to another process"):
        workers.run(partial(print, lock))


def test_a_call_that_cannot_work_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(workers, "_start", None)
    with pytest.raises(TypeError, match="expected a function of the worker's number, got 'train"):
        workers.run("train.py")
    for count in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="expected count as a whole number from 1, got"):
            workers.run(print, count=count)
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="expected timeout in seconds, above 0, got"):
            workers.run(print, timeout=timeout)


def test_the_loop_of_the_page_takes_the_steps_of_one_device():
    import keras

    page = (ROOT / "book" / "api" / "workers.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {"__name__": "page"}
    exec(code, names)
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(16), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    model = keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.fit(names["x"], names["y"], batch_size=64, epochs=5, shuffle=False, verbose=0)
    for one, two, alone in zip(
        names["first"], names["second"], model.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(one, alone.numpy(), atol=1e-5)
