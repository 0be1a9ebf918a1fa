"""Imports of packages that only an extra of this package brings."""

import contextlib
from collections.abc import Iterator


class ExtraNotInstalled(ModuleNotFoundError):
    """A package is missing that an extra of this package brings; the message names the extra."""


@contextlib.contextmanager
def from_extra(extra: str) -> Iterator[None]:
    """Context for such imports: a package that is missing is one line that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExtraNotInstalled(
            f"{error.name} is not installed; it comes with pip install 'unet-flax[{extra}]'.",
            name=error.name,
        ) from None
