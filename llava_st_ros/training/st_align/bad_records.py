"""Records that cannot be used: each is reported once and skipped; too many end the run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from llava_st_ros.errors import DataError, LlavaStError


class BadRecordLog:
    """The bad records that this process has met.

    With several processes each keeps its own log: every process meets the records whose text is
    bad, but only the process that reads a damaged video meets that one.

    Args:
        total: The number of records, good and bad.
        max_bad_share: The share of ``total`` that may be bad.
        min_bad_records: The number of records that may be bad in any case.
        log: A text file to which a line is appended for each bad record.

    Attributes:
        limit: The number of bad records that is accepted.
        errors: What is wrong with each bad record, by its source.
    """

    def __init__(
        self,
        total: int,
        *,
        max_bad_share: float = 0.01,
        min_bad_records: int = 10,
        log: Path | None = None,
    ) -> None:
        self.total, self.limit = total, max(min_bad_records, int(max_bad_share * total))
        self.errors: dict[str, str] = {}
        self._log = log
        self._noted: set[str] = set()

    def __contains__(self, source: str) -> bool:
        return source in self.errors

    def add(self, source: str, error: LlavaStError) -> None:
        """Report a bad record, unless it has been reported before.

        Raises:
            DataError: There are more bad records than ``limit``.
        """
        if source in self.errors:
            return
        self.errors[source] = str(error)
        self._write(f"bad record {source}: {error}")
        if len(self.errors) > self.limit:
            raise self.as_error(f"more than {self.limit} bad records")

    def note(self, source: str, notes: Iterable[str]) -> None:
        """Report what is unusual in the media of a good record, unless it has been reported."""
        if source not in self._noted:
            self._noted.add(source)
            for note in notes:
                self._write(f"record {source}: {note}")

    def _write(self, line: str) -> None:
        print(line, file=sys.stderr)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def as_error(self, problem: str) -> DataError:
        """The error that ends the run because of ``problem``, with the first few records."""
        first = "; ".join(f"{source}: {error}" for source, error in list(self.errors.items())[:3])
        return DataError(
            f"{problem}: {len(self.errors)} of {self.total} are bad, the first: {first}",
            f"all of them are listed in {self._log}" if self._log else "",
        )
