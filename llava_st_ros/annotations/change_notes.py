"""Counts of what was changed or left out while a file was read or converted."""

from __future__ import annotations


class ChangeNotes:
    """Counts the changes of each kind, and keeps the place of the first."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, place: str = "", count: int = 1) -> None:
        """Count a change; nothing is noted for a count of 0."""
        if count:
            before, first = self._counts.get(kind, (0, place))
            self._counts[kind] = before + count, first

    def lines(self) -> tuple[str, ...]:
        """Return one line for each kind.

        >>> notes = ChangeNotes()
        >>> notes.add("boxes given twice", "line 3")
        >>> notes.add("boxes given twice", "line 8")
        >>> notes.lines()
        ('boxes given twice: 2, the first at line 3',)
        """
        return tuple(
            f"{kind}: {count}" + (f", the first at {place}" if place else "")
            for kind, (count, place) in self._counts.items()
        )
