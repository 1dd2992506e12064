"""Numbers and names in the sentences of reports."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

__all__ = ["cause", "count", "first_line", "in_a_line", "listing", "short"]

#: What stands in front of the message of an error in a graph of TensorFlow.
_GRAPH = re.compile(
    r'\A(\s*(Graph execution error:|Detected at node .*|Node: .*|Stack trace for op .*|File ".*|'
    r"\d+ root error\(s\) found\.|\(0\) [A-Z_]+:))+\s*"
)
#: What TensorFlow puts between: names of nodes and operations.
_NODES = re.compile(
    r"\{\{function_node [^}]*\}\} ?|\s+\[Op:.*?\](?: name: ?\S*)?|\s+\[\[\{\{node .*?\}\}\]\]"
)


def short(number: float) -> str:
    """A number with two digits; from a hundred up, a whole one, as long as it can be read.

    Example:
        >>> short(0.1234), short(1234.5), short(1.2e38)
        ('0.12', '1,234', '1.2e+38')
    """
    return f"{number:,.0f}" if 100 <= abs(number) < 1e9 else f"{number:.2g}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> count(1, "layer"), count(1200, "layer")
        ('1 layer', '1,200 layers')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listing(names: Iterable[str], shown: int = 3) -> str:
    """Some names in a sentence.

    Example:
        >>> listing(["a"]), listing("ab"), listing("abcdef")
        ('a', 'a and b', 'a, b, c and 3 more')
    """
    names = list(names)
    last = [f"{len(names) - shown} more"] if len(names) > shown + 1 else names[shown:]
    names = names[:shown] + last
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _plain(text: str) -> str:
    """What an error says, without colors and what TensorFlow puts in front and between."""
    return _GRAPH.sub("", _NODES.sub("", re.sub(r"\x1b\[[\d;]*m", "", text)))


def first_line(error: BaseException) -> str:
    """The first line of what an error says that is no header."""
    return (_plain(str(error)).splitlines() or [""])[0]


def in_a_line(error: BaseException) -> str:
    """What an error says, without the colors and the many lines of Keras."""
    plain = _plain(str(error)).rsplit("Exception encountered:", 1)[-1]  # Keras puts the cause there
    text = textwrap.shorten(plain, 400, placeholder=" ...")
    if type(error) is ValueError and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cause(error: BaseException) -> str:
    """What went wrong at the bottom of an error: its type, and the paragraph that says it.

    Keras wraps what a `call` raises in one more error for each layer around it.
    """
    wrapped = "Exception encountered when calling "
    while True:
        told = not error.__suppress_context__ or str(error).startswith(wrapped)
        behind = error.__cause__ or (error.__context__ if told else None)
        if behind is None:
            break
        error = behind
    text = str(error)
    if isinstance(error, KeyError) and error.args:  # it shows its message as a literal
        text = str(error.args[0]).replace("\\n", "\n").replace("\\x1b", "\x1b")
    text = _plain(text)
    text = text.split("Error encountered:\n\n")[-1]  # while Keras inferred a shape
    if text.startswith("in user code:"):  # a traceback of AutoGraph, with what was raised last
        text = re.split(r"\n +\w*(?:Error|Exception)\w*: ", text, maxsplit=1)[-1]
    text = re.sub(r"\n[ \t]+", "\n", re.sub(rf"^(\w+: .)?({wrapped}.*\s+)+", "", text))
    text = text.split("\n\nArguments received by")[0]
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return f"{type(error).__name__}: {paragraph}" if paragraph else type(error).__name__
