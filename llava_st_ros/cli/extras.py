"""The optional dependencies ("extras") that subcommands need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llava_st_ros.errors import ConfigError


@contextmanager
def requires_extra(name: str) -> Iterator[None]:
    """Raise ConfigError, with the extra to install, if an import fails in the block."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"a package of llava_st_ros[{name}] cannot be imported: {error}",
            f"pip install '.[{name}]' in the source folder",
        ) from error
