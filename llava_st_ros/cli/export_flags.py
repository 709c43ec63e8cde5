"""Flags that ``llava-st export`` shares with its actions.

A shared flag may be given before or after the action: ``export --json verify DIR`` is the same as
``export verify DIR --json``. If it is given in both places, the later one wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

SHARED_FLAGS: dict[str, dict[str, Any]] = {
    "--target": {"default": "cpu"},
    "--precision": {"default": ""},
    "--device": {"default": ""},
    "--simulated": {"type": int, "default": 0, "metavar": "N"},
    "--first-divergence": {"action": "store_true"},
    "--json": {"action": "store_true"},
}


def add_shared_flags(
    parser: argparse.ArgumentParser, helps: Mapping[str, str], *, action: bool = False
) -> None:
    """Add shared flags to a parser.

    Args:
        parser: The parser of ``llava-st export`` or of one of its actions.
        helps: Help text of each flag to add.
        action: Whether the parser is an action's. Then it sets no defaults: ``export`` has set
            them, and argparse would overwrite a value that was given before the action.
    """
    for flag, text in helps.items():
        settings = dict(SHARED_FLAGS[flag])
        if action:
            settings["default"] = argparse.SUPPRESS
        parser.add_argument(flag, help=text, **settings)
