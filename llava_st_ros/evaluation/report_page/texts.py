"""Numbers and texts of a page, as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MAX_TEXT = 600  # characters of a text from data that are shown
# What HTML must not contain: controls, lone surrogates, noncharacters.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


class CleanText(str):
    """A text that may be in HTML once it is escaped; it is not shortened."""


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Return a text from data that may be in HTML once it is escaped, shortened in the middle.

    >>> clean("a\\x00b"), len(clean("x" * 5000)) < 700
    ('a\ufffdb', True)
    """
    text = _FORBIDDEN.sub("\ufffd", text)
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} … ({len(text)} characters) … {text[-half:]}"
    return text


def number(value: float | None, unit: str = "") -> str:
    """Return a figure with three to four digits; an en dash if it is undefined.

    >>> number(0.12345), number(12.345, "s"), number(0.0123, "s"), number(1234.5, "1/h")
    ('0.123', '12.3 s', '0.012 s', '1234 1/h')
    >>> number(math.nan)
    '–'
    """
    if value is None or math.isnan(value):
        return "–"
    if unit and value == 0:
        return f"0 {unit}"
    size = abs(value)
    digits = 3 if size < 1 or not unit else 2 if size < 10 else 1 if size < 100 else 0
    if not unit and size >= 10:
        digits = 1
    text = f"{value:.{digits}f}"
    return f"{text} {unit}" if unit else text


def signed(value: float, unit: str = "") -> str:
    """Return a difference with its sign.

    >>> signed(0.1), signed(-2.0, "s"), signed(0.0), signed(0.0, "1/h")
    ('+0.100', '−2.00 s', '0.000', '0 1/h')
    """
    if math.isnan(value):
        return "–"
    text = number(abs(value), unit)
    if not any(digit in text.split()[0] for digit in "123456789"):
        return text
    return ("−" if value < 0 else "+") + text


def seconds(nanoseconds: float) -> str:
    """Return a duration or time in seconds.

    >>> seconds(1_234_000_000)
    '1.23 s'
    """
    return f"{nanoseconds / 1e9:.2f} s"


def milliseconds(duration: float) -> str:
    """Return a duration in seconds as milliseconds, with three digits.

    >>> milliseconds(0.0000123), milliseconds(0.0123), milliseconds(1.234), milliseconds(12.0)
    ('0.01', '12.3', '1234', '12000')
    """
    value = 1000 * duration
    if math.isnan(value):
        return "–"
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def shortened(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines of a list, and how many more there are.

    >>> shortened(["a", "b", "c"], 1), shortened(["a"], 1)
    (['a', 'and 2 more'], ['a'])
    """
    shown = list(lines[:most])
    return [*shown, f"and {len(lines) - most} more"] if len(lines) > most else shown


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "query"), plural(2, "query"), plural(0, "case")
    ('1 query', '2 queries', '0 cases')
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"
