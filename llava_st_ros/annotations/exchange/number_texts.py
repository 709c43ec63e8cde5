"""Numbers in text files: what Python's ``float`` accepts beyond them ("nan", "1_0") is an error."""

from __future__ import annotations

import math
import re

from llava_st_ros.annotations.box_rules import PIXEL_DIGITS
from llava_st_ros.errors import DataError, shown

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_INTEGER = re.compile(r"[0-9]{1,9}")


def parse_number(text: str | None, where: str, remedy: str) -> float:
    """Return a finite number.

    Args:
        text: As in the file; None if it is missing.
        where: The file and the place, for the error.
        remedy: What the user can do, for the error.

    Raises:
        DataError: It is not a decimal number, or too large.

    >>> parse_number(" 12.5", "x", "")
    12.5
    """
    if text is None:
        raise DataError(f"{where} is missing", remedy)
    if not _NUMBER.fullmatch(text.strip()) or not math.isfinite(value := float(text)):
        raise DataError(f"{where} is {shown(text)}; expected a number", remedy)
    return value


def parse_integer(text: str | None, where: str, remedy: str) -> int:
    """Return an integer from 0 on of at most 9 digits. Raises DataError as ``parse_number``."""
    if text is None:
        raise DataError(f"{where} is missing", remedy)
    if not _INTEGER.fullmatch(text.strip()):
        raise DataError(f"{where} is {shown(text)}; expected an integer of up to 9 digits", remedy)
    return int(text)


def number_text(value: float) -> str:
    """Return a number of pixels as text.

    >>> number_text(12.5), number_text(3.0), number_text(-0.0004)
    ('12.5', '3', '0')
    """
    text = f"{value:.{PIXEL_DIGITS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
