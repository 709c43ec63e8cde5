"""Records that cannot be used: each is reported once and skipped, too many end the run."""

from __future__ import annotations

import sys
from pathlib import Path

from llava_st_ros.errors import DataError, LlavaStError


class BadRecords:
    """The bad records that this process met, out of ``total``.

    Each is printed and appended to ``log`` as a line with its source and what is wrong. ``add``
    raises DataError once they are more than ``share`` of the total and more than ``least``.
    With several processes each counts what it met itself: what is wrong in the text meets all of
    them, a damaged video the one whose turn it is.
    """

    def __init__(
        self, total: int, *, share: float = 0.01, least: int = 10, log: Path | None = None
    ) -> None:
        self.total, self.limit = total, max(least, int(share * total))
        self.found: dict[str, str] = {}  # source -> what is wrong
        self._log = log

    def __contains__(self, source: str) -> bool:
        return source in self.found

    def add(self, source: str, error: LlavaStError) -> None:
        if source in self.found:
            return
        self.found[source] = str(error)
        line = f"bad record {source}: {error}"
        print(line, file=sys.stderr)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        if len(self.found) > self.limit:
            raise self.too_many(f"at most {self.limit}")

    def too_many(self, expected: str) -> DataError:
        """The error that ends the run, with the first few records."""
        first = "; ".join(f"{s}: {e}" for s, e in list(self.found.items())[:3])
        where = f" (all are in {self._log})" if self._log else ""
        return DataError(
            f"{len(self.found)} bad records of {self.total}, the first: {first}"
            f"; expected {expected}",
            f"correct them or take them out{where}",
        )
