"""Files of benchmarks: each record is a sample with exactly its values, or counted as bad."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.benchmarks.catalogue import BenchmarkFiles, read_benchmark
from llava_st_ros.evaluation.benchmarks.samples import (
    BenchmarkFile,
    BenchmarkQuery,
    MomentTruth,
    RegionTruth,
    VideoTruth,
)
from llava_st_ros.records import Box
from support.benchmark_files import (
    CHARADES_LINES,
    CHARADES_RECORD,
    hc_stvg_record,
    refcoco_file,
    st_align_record,
    vidor_video,
    vidstg_record,
    write_json,
)

# Name and suffix of a file, and its content. The mutated one is not the only record.
FILES: dict[tuple[str, str], Any] = {
    ("stvg", ".json"): [st_align_record("stvg"), st_align_record("stvg")],
    ("elc", ".json"): [st_align_record("elc"), st_align_record("elc")],
    ("vidstg", ".json"): [vidstg_record(), vidstg_record()],
    ("hc-stvg-v1", ".json"): {"a.mp4": hc_stvg_record(1), "b.mp4": hc_stvg_record(1)},
    ("hc-stvg-v2", ".json"): {"a.mp4": hc_stvg_record(2), "b.mp4": hc_stvg_record(2)},
    ("charades-sta", ".json"): [CHARADES_RECORD, CHARADES_RECORD],
    ("charades-sta", ".txt"): CHARADES_LINES * 2,
    ("refcoco", ".json"): refcoco_file("llava_st"),
    ("refcocog", ".json"): refcoco_file("coco"),
}


class Benchmarks(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._vidor = write_json(folder / "vidor/training/1002/101.json", vidor_video())

    def make(self, rng: np.random.Generator) -> Case:
        names = list(FILES)
        name, suffix = names[int(rng.integers(len(names)))]
        content = FILES[name, suffix]
        vidor = json.dumps(vidor_video()).encode()
        if name == "vidstg" and rng.integers(2):
            value, step = mutate_json(rng, vidor_video())
            vidor = json.dumps(value).encode()
        elif suffix == ".txt" or rng.integers(3) == 0:
            text = content if suffix == ".txt" else json.dumps(content)
            data, step = mutate_bytes(rng, text.encode())
            return Case((name, suffix, data, vidor, None), f"{name}{suffix}: {step}")
        else:
            content, step = mutate_json(rng, content)
        data = json.dumps(content).encode()
        return Case((name, suffix, data, vidor, content), f"{name}{suffix}: {step}")

    def check(self, data: Any) -> None:
        name, suffix, written, vidor, content = data
        path = self.folder / f"{name}{suffix}"
        path.write_bytes(written)
        self._vidor.write_bytes(vidor)
        benchmark = "st-align" if name in ("stvg", "elc") else name
        folder = self.folder / "vidor" if name == "vidstg" else None
        read = read_benchmark(benchmark, BenchmarkFiles(path, vidor=folder))
        for sample in read.samples:
            _check_sample(sample)
        if len({sample.id for sample in read.samples}) != len(read.samples):
            raise WrongAcceptanceError("two samples have the same id")
        counted = len(read.samples) + len(read.bad)
        if content is not None and counted != (expected := _records(name, content, read)):
            raise WrongAcceptanceError(f"{counted} of {expected} records are counted")
        if read.bad:
            raise DataError(read.bad[0].problem)


def _records(name: str, content: Any, read: BenchmarkFile) -> int:
    if name == "vidstg":
        spoiled = {bad.place for bad in read.bad if "[" not in bad.place}
        return sum(
            1
            if f"vidstg.json: record {number}" in spoiled
            else len(record["captions"]) + len(record["questions"])
            for number, record in enumerate(content)
        )
    if name.startswith("refcoco"):
        annotations, images = content["annotations"], content["images"]
        more = images[len(annotations) :]
        return len(annotations) + sum("caption" in i for i in more if isinstance(i, dict))
    return len(content)


def _check_sample(sample: BenchmarkQuery) -> None:
    truth = sample.truth
    boxes: list[Box] = []
    if isinstance(truth, VideoTruth):
        first, end = truth.span
        crop = truth.crop or (0, 10**9)
        if not 0 <= first < end or first < crop[0] or end > crop[1] + 3 or not truth.boxes:
            raise WrongAcceptanceError(f"span {truth.span} of {truth.crop}")
        boxes = list(truth.boxes.values())
    elif isinstance(truth, RegionTruth):
        boxes = [truth.box]
    elif isinstance(truth, MomentTruth) and not 0 <= truth.start < truth.end < math.inf:
        raise WrongAcceptanceError(f"span {truth}")
    for box in boxes:
        corners = (box.x1, box.y1, box.x2, box.y2)
        ordered = box.x1 <= box.x2 and box.y1 <= box.y2
        if not all(map(math.isfinite, corners)) or not ordered:
            raise WrongAcceptanceError(f"box {corners}")
    if any(name.startswith("/") or ".." in name.split("/") for name in sample.media):
        raise WrongAcceptanceError(f"media {sample.media}")


SURFACE = Benchmarks
