"""A progress bar for people, and none for machines.

A bar is drawn where somebody watches: in a terminal, and in a notebook that JupyterLab, VS Code or
Colab has opened. It comes up only when the work takes longer than a moment, and is gone when the
work is done. Nothing is drawn in continuous integration, in tests, and where a program executes
notebooks, so stored outputs hold no bars. The environment variable `BNUTILS_PROGRESS` overrules
this: 1 always draws, 0 never does. Where tqdm is not installed, none is drawn.

Example:
    >>> with bar(3, unit="step") as shown:
    ...     for _ in range(3):
    ...         shown.update()
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

__all__ = ["DELAY", "FRONT_ENDS", "bar", "watched"]

DELAY = 2.0  # seconds: shorter work shows no bar
# Set in the environment of a kernel by what opened the notebook. The programs that only execute
# notebooks (nbclient, nbval, nbconvert) set none of them.
FRONT_ENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")


def watched() -> bool:
    """Whether somebody seems to be watching.

    Returns:
        True in a terminal and in an open notebook, False in tests, in continuous integration, and
        where nobody can be told to look.
    """
    if wish := os.environ.get("BNUTILS_PROGRESS"):
        return wish != "0"
    if "CI" in os.environ or "PYTEST_CURRENT_TEST" in os.environ:
        return False
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if hasattr(shell, "kernel"):
        return any(name in os.environ for name in FRONT_ENDS)
    return sys.stderr.isatty()


class _Silent:
    """What takes the place of a bar that is not drawn."""

    def update(self, n: int = 1) -> None:
        """Do nothing."""


def bar(
    total: int, *, unit: str = "it", label: str | None = None, show: bool | None = None
) -> AbstractContextManager[Any]:
    """Make a progress bar, to be used in a `with` statement.

    Args:
        total: how many units of work there are.
        unit: what one of them is called.
        label: what is being done, in front of the bar.
        show: whether to draw it; None asks `watched`.

    Returns:
        A context manager that gives an object with `update(n=1)`.
    """
    if not (watched() if show is None else show):
        return nullcontext(_Silent())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets, it draws a bar of characters
            from tqdm.auto import tqdm
    except ModuleNotFoundError:
        return nullcontext(_Silent())
    return tqdm(total=total, unit=unit, desc=label, delay=DELAY, leave=False)
