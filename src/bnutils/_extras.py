"""What is said where a part of the package lacks the packages that it stands on.

`pip install bnutils` brings NumPy alone. What a part needs beyond that is imported inside
`with extra(name):`, where `name` is the extra of pyproject.toml that has it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["MissingExtraError", "extra"]


class MissingExtraError(ModuleNotFoundError):
    """A package is not installed; the message says which extra brings it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say of a package that is not found inside the block which extra brings it.

    Args:
        name: of the extra.

    Raises:
        MissingExtraError: instead of a `ModuleNotFoundError` for a package that is not ours.

    Example:
        >>> with extra("book"):
        ...     import a_package_that_is_not_there
        Traceback (most recent call last):
            ...
        bnutils._extras.MissingExtraError: a_package_that_is_not_there is not installed. It comes \
with: pip install "bnutils[book]"
    """
    try:
        yield
    except MissingExtraError:
        raise  # a part inside has said it, and knows better
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "bnutils"):
            raise
        raise MissingExtraError(
            f'{package} is not installed. It comes with: pip install "bnutils[{name}]"',
            name=error.name,
        ) from error
