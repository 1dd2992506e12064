"""One worker process, as `bnutils.workers` starts it; it never outlives the process that did.

`python -m bnutils._worker FOLDER INDEX` calls the function of FOLDER/function with INDEX, writes
what that returns to FOLDER/INDEX, and waits to be ended: in a cluster, a worker that leaves before
the others makes them fail.
"""

import os
import pickle
import sys
import threading
from pathlib import Path


def _end_with_the_starter() -> None:
    """End when nobody holds the other end of standard input any more."""
    os.read(0, 1)
    os._exit(1)


def main(folder: Path, index: int) -> None:
    """Run the function, and keep its result until told to end."""
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    result = pickle.loads((folder / "function").read_bytes())(index)
    unfinished = folder / f"{index}.unfinished"
    unfinished.write_bytes(pickle.dumps(result))
    unfinished.replace(folder / str(index))
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
