"""Numbers and names in the sentences of reports."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["count", "first_line", "listing", "short"]


def short(number: float) -> str:
    """A number with two digits; from a hundred up, a whole one.

    Example:
        >>> short(0.1234), short(1234.5)
        ('0.12', '1,234')
    """
    return f"{number:.2g}" if abs(number) < 100 else f"{number:,.0f}"


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


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [""])[0]
