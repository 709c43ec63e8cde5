"""Which record comes when: files mixed by weight, an order that is a pure function of the place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.training.st_align.bad_records import BadRecords
from llava_st_ros.training.st_align.format import Record, parse, read_values


@dataclass(frozen=True)
class Part:
    """A file of a mix, relative to the data's folder. ``weight`` is how often an epoch has each of
    its records, 0.25: one of four. ``media`` is the folder that its paths start from."""

    json: str
    media: str = "."
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"weight {self.weight} of {self.json}; expected a number above 0")


def read_mix(
    parts: Sequence[Part], folder: Path, bad: Mapping[str, Any]
) -> tuple[list[list[Record]], BadRecords]:
    """The good records of every part, and those that are bad in text or values.

    ``bad`` are the limits and the log of BadRecords. Media are not looked at. Raises DataError
    where a file cannot be read, too many records are bad, or none of a part is left.
    """
    files = [read_values(folder / part.json) for part in parts]
    found = BadRecords(sum(map(len, files)), **bad)
    records = []
    for part, values in zip(parts, files):
        good = []
        for index, value in enumerate(values):
            source = f"{part.json}:{index}"
            try:
                record = parse(value, source)
            except DataError as error:
                found.add(source, error)
                continue
            good.append(replace(record, media=str(folder / part.media / record.media)))
        if not good:
            if found.found:
                raise found.too_many(f"a good record in {part.json}")
            raise DataError(f"no record in {part.json}; expected at least one")
        records.append(good)
    return records, found


class Mix:
    """Records in a shuffled order without end: epoch after epoch, each without replacement.

    The record at a place depends on the files, the weights, the seed and the place alone. Of a part
    of weight 2.5 an epoch holds every record twice and half of them, drawn anew, once more.
    """

    def __init__(self, records: Sequence[Sequence[Record]], weights: Sequence[float], seed: int):
        self._records = [record for part in records for record in part]
        self._parts: list[tuple[np.ndarray, int, int]] = []  # indices, copies, more of them
        first = 0
        for part, weight in zip(records, weights):
            copies = int(weight)
            more = round((weight - copies) * len(part))
            self._parts.append((np.arange(first, first + len(part)), copies, more))
            first += len(part)
        self._seed, self._epoch = seed, (-1, np.empty(0, np.int64))
        self.epoch_length = sum(c * len(indices) + more for indices, c, more in self._parts)
        if not self.epoch_length:
            raise ConfigError(
                "weights that leave no record; expected a record or more", "raise them"
            )

    @property
    def distinct(self) -> int:
        return len(self._records)

    def at(self, place: int, skip: int = 0) -> Record:
        """The record at a place from 0 on, or the one ``skip`` further on in the same epoch."""
        epoch, within = divmod(place, self.epoch_length)
        return self._records[self._order(epoch)[(within + skip) % self.epoch_length]]

    def _order(self, epoch: int) -> np.ndarray:
        known, order = self._epoch
        if known != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            drawn = [
                np.concatenate([np.tile(indices, copies), rng.permutation(indices)[:more]])
                for indices, copies, more in self._parts
            ]
            order = rng.permutation(np.concatenate(drawn))
            self._epoch = (epoch, order)
        return order
