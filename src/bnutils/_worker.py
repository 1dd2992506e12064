"""One worker process, as `bnutils.workers` starts it; it never outlives the process that did.

It leads a process group, where there are such, and takes it along.

`python -m bnutils._worker FOLDER INDEX` calls the function of FOLDER/function with INDEX, writes
what that returns to FOLDER/INDEX, and waits to be ended: in a cluster, a worker that leaves before
the others makes them fail.
"""

import os
import pickle
import signal
import sys
import threading
import traceback
from pathlib import Path


def _end_with_the_starter() -> None:
    """End when nobody holds the other end of standard input any more."""
    os.read(0, 1)
    if hasattr(os, "killpg"):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main(folder: Path, index: int) -> None:
    """Run the function, and keep its result until told to end."""
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    try:
        result = pickle.dumps(pickle.loads((folder / "function").read_bytes())(index))
    except Exception:
        # At once, before the other workers miss this one and fail as well.
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)
    unfinished = folder / f"{index}.unfinished"
    unfinished.write_bytes(result)
    unfinished.replace(folder / str(index))
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
