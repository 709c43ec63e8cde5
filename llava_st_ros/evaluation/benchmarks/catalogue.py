"""The benchmarks by name, and how the files of each are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llava_st_ros.errors import ConfigError, DataError, shown
from llava_st_ros.evaluation.benchmarks.charades_sta import read_charades_sta
from llava_st_ros.evaluation.benchmarks.hc_stvg import read_hc_stvg
from llava_st_ros.evaluation.benchmarks.refcoco import read_refcoco
from llava_st_ros.evaluation.benchmarks.samples import BenchmarkFile
from llava_st_ros.evaluation.benchmarks.st_align import TASKS, read_st_align
from llava_st_ros.evaluation.benchmarks.vidstg import SENTENCES, read_vidstg


@dataclass(frozen=True)
class BenchmarkFiles:
    """What the user names.

    Attributes:
        annotations: The annotation file.
        split: A part of the benchmark, one of its ``Benchmark.splits``; empty for the default.
        vidor: The folder of VidOR's annotations; None if it is not named.
        limit: Read this many samples at most; None for all.
    """

    annotations: Path
    split: str = ""
    vidor: Path | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        title: Its published name.
        read: Reads its files.
        splits: What ``BenchmarkFiles.split`` may be.
        uses_vidor: Whether it needs ``BenchmarkFiles.vidor``.
    """

    title: str
    read: Callable[[BenchmarkFiles], BenchmarkFile]
    splits: tuple[str, ...] = ()
    uses_vidor: bool = False


def _st_align(files: BenchmarkFiles) -> BenchmarkFile:
    return read_st_align(files.annotations, files.split, files.limit)


def _vidstg(files: BenchmarkFiles) -> BenchmarkFile:
    assert files.vidor is not None
    kinds = (files.split,) if files.split else tuple(SENTENCES)
    return read_vidstg(files.annotations, files.vidor, kinds, files.limit)


def _hc_stvg(files: BenchmarkFiles, version: int) -> BenchmarkFile:
    return read_hc_stvg(files.annotations, version, files.limit)


def _charades_sta(files: BenchmarkFiles) -> BenchmarkFile:
    return read_charades_sta(files.annotations, files.limit)


def _refcoco(files: BenchmarkFiles) -> BenchmarkFile:
    return read_refcoco(files.annotations, files.limit)


BENCHMARKS: Mapping[str, Benchmark] = {
    "st-align": Benchmark("ST-Align", _st_align, tuple(TASKS)),
    "vidstg": Benchmark("VidSTG", _vidstg, tuple(SENTENCES), uses_vidor=True),
    "hc-stvg-v1": Benchmark("HC-STVG v1", partial(_hc_stvg, version=1)),
    "hc-stvg-v2": Benchmark("HC-STVG v2", partial(_hc_stvg, version=2)),
    "charades-sta": Benchmark("Charades-STA", _charades_sta),
    "refcoco": Benchmark("RefCOCO", _refcoco),
    "refcoco+": Benchmark("RefCOCO+", _refcoco),
    "refcocog": Benchmark("RefCOCOg", _refcoco),
}


def read_benchmark(name: str, files: BenchmarkFiles) -> BenchmarkFile:
    """Read a benchmark's files.

    Args:
        name: A key of BENCHMARKS.
        files: Its files.

    Raises:
        ConfigError: The benchmark or the split is unknown, or VidOR's folder is missing.
        DataError: A file cannot be read, or no record can be used.
    """
    if name not in BENCHMARKS:
        raise ConfigError(
            f"benchmark {shown(name)} is unknown; expected one of {', '.join(BENCHMARKS)}"
        )
    benchmark = BENCHMARKS[name]
    if files.split and files.split not in benchmark.splits:
        expected = f"expected one of {', '.join(benchmark.splits)}" if benchmark.splits else ""
        raise ConfigError(
            f"{benchmark.title} has no split {shown(files.split)}; "
            + (expected or "its splits are files of their own, which --annotations names")
        )
    if benchmark.uses_vidor and files.vidor is None:
        raise ConfigError(
            f"{benchmark.title} has its boxes in VidOR's annotation files",
            "name their folder with --vidor",
        )
    if not benchmark.uses_vidor and files.vidor is not None:
        raise ConfigError(f"{benchmark.title} does not use VidOR's annotations (--vidor)")
    read = benchmark.read(files)
    if not read.samples:
        first = f"; the first: {read.bad[0].place}: {read.bad[0].problem}" if read.bad else ""
        raise DataError(
            f"none of the {len(read.bad)} records of {files.annotations} can be used{first}"
        )
    return read
