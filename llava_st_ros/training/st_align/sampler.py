"""The order of records in training: weighted files, shuffled, a pure function of the position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.files.json_files import read_values
from llava_st_ros.training.st_align.bad_records import BadRecordLog
from llava_st_ros.training.st_align.format import Record, parse


@dataclass(frozen=True)
class RecordFile:
    """A file of records in a training mix.

    Attributes:
        json: Its path, relative to the data folder.
        media: The folder that the records' paths are relative to, relative to the data folder.
        weight: How often an epoch contains each record; 0.25 means a quarter of the records.
    """

    json: str
    media: str = "."
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"weight of {self.json} is {self.weight}; expected a value above 0")


def read_records(
    files: Sequence[RecordFile], folder: Path, bad_limits: Mapping[str, Any]
) -> tuple[list[list[Record]], BadRecordLog]:
    """Read and check the records of ``files``; their media are not opened.

    Args:
        files: The files of the mix.
        folder: The data folder.
        bad_limits: The keyword arguments of BadRecordLog.

    Returns:
        The good records of each file, and the log of the bad ones.

    Raises:
        DataError: A file cannot be read or has no good record, or too many records are bad.
    """
    contents = [read_values(folder / file.json, DataError) for file in files]
    bad_records = BadRecordLog(sum(map(len, contents)), **bad_limits)
    records = []
    for file, values in zip(files, contents):
        good_records = []
        for index, value in enumerate(values):
            source = f"{file.json}:{index}"
            try:
                record = parse(value, source)
            except DataError as error:
                bad_records.add(source, error)
                continue
            good_records.append(replace(record, media=str(folder / file.media / record.media)))
        if not good_records:
            if bad_records.errors:
                raise bad_records.as_error(f"no good record in {file.json}")
            raise DataError(f"no record in {file.json}")
        records.append(good_records)
    return records, bad_records


class RecordSampler:
    """An endless shuffled order of records: epoch after epoch, each drawn without replacement.

    The record at a position depends on the files, the weights, the seed and the position alone, so
    that a run can resume anywhere. With weight 2.5, an epoch contains every record of a file twice
    and half of them, drawn anew for each epoch, once more.

    Args:
        records: The records of each file.
        weights: The weight of each file.
        seed: The seed of the order.
    """

    def __init__(self, records: Sequence[Sequence[Record]], weights: Sequence[float], seed: int):
        self._records = [record for part in records for record in part]
        self._parts: list[tuple[np.ndarray, int, int]] = []  # indices, full copies, extra records
        first = 0
        for part, weight in zip(records, weights):
            copies = int(weight)
            extra = round((weight - copies) * len(part))
            self._parts.append((np.arange(first, first + len(part)), copies, extra))
            first += len(part)
        self._seed, self._epoch = seed, (-1, np.empty(0, np.int64))
        self.epoch_length = sum(c * len(indices) + extra for indices, c, extra in self._parts)
        if not self.epoch_length:
            raise ConfigError("the weights leave no record in an epoch", "raise them")

    def record_at(self, position: int, skip: int = 0) -> Record:
        """The record at a position, counted from 0 over all epochs.

        ``skip`` moves on by so many positions within the epoch, wrapping around at its end.
        """
        epoch, offset = divmod(position, self.epoch_length)
        return self._records[self._order(epoch)[(offset + skip) % self.epoch_length]]

    def _order(self, epoch: int) -> np.ndarray:
        cached, order = self._epoch
        if cached != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            epoch_parts = [
                np.concatenate([np.tile(indices, copies), rng.permutation(indices)[:extra]])
                for indices, copies, extra in self._parts
            ]
            order = rng.permutation(np.concatenate(epoch_parts))
            self._epoch = (epoch, order)
        return order
