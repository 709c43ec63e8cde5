"""What subcommands need beside the package: optional dependencies ("extras") and ROS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llava_st_ros.errors import BackendError, ConfigError


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


@contextmanager
def requires_ros(command: str) -> Iterator[None]:
    """Raise BackendError where the block's imports of rclpy or the messages fail.

    Args:
        command: The user's command, for the remedy.
    """
    try:
        yield
    except ImportError as error:
        raise BackendError(
            f"rclpy or this package's messages cannot be imported ({error})",
            f"source your ROS 2 workspace, or use `scripts/with_ros {command}`",
        ) from error
