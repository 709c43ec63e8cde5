"""ST-Align records: a record is used with exactly the values that it has, or not at all."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.files.json_files import read_values
from llava_st_ros.training.st_align.format import VARIABLES, parse
from support.st_align_files import image_record, video_record

PLACEHOLDER = re.compile("|".join(map(re.escape, VARIABLES)))


class Records(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # In files, tuples are lists.
        records = [video_record("v0"), image_record("p0"), {**video_record("v1")}]
        records[2]["meta"] = {"split": [2, 9]}
        self._records = json.loads(json.dumps(records))

    def make(self, rng: np.random.Generator) -> Case:
        if rng.integers(3) == 0:
            suffix = ".jsonl" if rng.integers(2) else ".json"
            lines = [json.dumps(record) for record in self._records]
            text = "\n".join(lines) if suffix == ".jsonl" else "[" + ",".join(lines) + "]"
            data, step = mutate_bytes(rng, text.encode())
            return Case((suffix, data), f"{suffix}, {step}")
        record = self._records[int(rng.integers(len(self._records)))]
        value, step = mutate_json(rng, record)
        return Case(("", value), step)

    def check(self, data: Any) -> None:
        suffix, content = data
        values = [content]
        if suffix:
            path = self.folder / f"records{suffix}"
            path.write_bytes(content)
            values = read_values(path, DataError)
        for value in values[:-1]:
            self._check_one(value, must_parse=False)
        for value in values[-1:]:  # its error is that of the case
            self._check_one(value, must_parse=True)

    def _check_one(self, value: Any, *, must_parse: bool) -> None:
        try:
            record = parse(value, "file:0")
        except LlavaStError:
            if must_parse:
                raise
            return
        texts = [message["value"] for message in value["conversations"]]
        expected: list[float] = []
        unread = {key: iter(value.get("variables", {}).get(key, ())) for key in VARIABLES.values()}
        for text in texts:
            expected += [next(unread[VARIABLES[p]]) for p in PLACEHOLDER.findall(text)]
        found: list[float] = []
        for question, answer in record.turns:
            inputs = {axis: iter(numbers) for axis, numbers in question.inputs.items()}
            tokens = {axis.input_token: axis for axis in inputs}
            found += [next(inputs[tokens[p]]) for p in PLACEHOLDER.findall(question.text)]
            found += answer.values
        if found != expected:
            raise WrongAcceptanceError(f"values {found} of {expected}")
        if not all(math.isfinite(number) and 0 <= number <= 1 for number in found):
            raise WrongAcceptanceError(f"values outside [0, 1]: {found}")
        if record.media not in (value.get(record.modality.value), *_items(value, record)):
            raise WrongAcceptanceError(f"media {record.media!r}")
        if record.split is not None and not 0 <= record.split[0] <= record.split[1]:
            raise WrongAcceptanceError(f"split {record.split}")


def _items(value: Any, record: Any) -> list[Any]:
    media = value.get(record.modality.value)
    return media if isinstance(media, list) else []


SURFACE = Records
