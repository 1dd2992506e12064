"""Text from data on its way into markup, where nothing in it may be taken for more than text."""

from __future__ import annotations

import html
import re

__all__ = ["as_myst", "escaped", "plain"]

#: Control characters, marks that turn the direction of what follows, and halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


def plain(text: str) -> str:
    r"""A text in which each character that is not seen, and does something, is a replacement mark.

    Example:
        >>> plain("a\x00b")
        'a\ufffdb'
    """
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def escaped(text: str) -> str:
    """A text as HTML shows it.

    Example:
        >>> escaped("<script>")
        '&lt;script&gt;'
    """
    return html.escape(plain(text))


def as_myst(text: str) -> str:
    r"""A text in one line as MyST shows it, in a paragraph or in a table.

    Example:
        >>> print(as_myst("`{role}` of | $x$"))
        \`\{role\}\` of \| \$x\$
    """
    return _PUNCTUATION.sub(r"\\\g<0>", " ".join(plain(text).split()))
