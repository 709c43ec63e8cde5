"""Measure a model on footage of a second renderer, with which nothing is trained.

scripts/with_ros python -m benchmarks.second_renderer --n 60 [--streams 6] [--model DIR]
    [--seed 0] [--queries 8] [--vary NAME=V,V] [--store DIR] [--threads 1] [--sheet FILE.png]
    [--out FILE.json]

Clips are evaluated as by ``llava-st eval simulated``, streams of 40 s as by ``llava-st eval
streams``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
from tqdm import tqdm

from benchmarks.second_renderer.contact_sheet import contact_sheet
from benchmarks.second_renderer.footage import make_clip
from benchmarks.second_renderer.scores import (
    CATEGORIES,
    clip_rows,
    record_streams,
    score_clips,
    score_streams,
)
from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.cli.figure_tables import name_of, number, text_table
from llava_st_ros.cli.outputs import check_files, check_folders, print_tables
from llava_st_ros.cli.stream_arguments import stream_store
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.errors import ConfigError, LlavaStError
from llava_st_ros.evaluation.result_table import result_table
from llava_st_ros.evaluation.results import MetricRow, without_nan
from llava_st_ros.evaluation.setting_sweep import Variation, combinations
from llava_st_ros.evaluation.simulated import clip_questions
from llava_st_ros.text.tokenizer import Tokenizer

SHEET_CLIPS = 24


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=60, help="number of clips (default 60)")
    parser.add_argument("--streams", type=int, default=0, help="number of streams (default 0)")
    parser.add_argument("--queries", type=int, default=8, help="of a stream (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip and stream")
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--threads", type=int, default=1, help="of the model (default 1)")
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=V,V",
        help="compare values of a setting of standing queries, as 'llava-st eval streams' does",
    )
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the recorded streams here")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help=f"only draw the first {SHEET_CLIPS} clips"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures as JSON")
    try:
        return _run(parser.parse_args(arguments))
    except LlavaStError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code


def _run(options: argparse.Namespace) -> int:
    if min(options.n, options.streams, options.seed) < 0 or options.queries < 1:
        raise ConfigError("--n, --streams and --seed are at least 0, --queries at least 1")
    changes = combinations([Variation.parse(text) for text in options.vary])
    base = GrounderConfig(StreamConfig(history=HISTORY))
    configs = [replace(base, **changed) for changed in changes]
    check_files(options.out, options.sheet)
    check_folders(options.store)
    if options.sheet is not None:
        return _draw(options)
    start = time.monotonic()
    folder = options.model or default_model()
    backend, tokenizer = load_backend(folder, threads=options.threads)
    report = {"model": folder.name, "seed": options.seed}
    if options.n:
        clips = _clip_rows(options, backend, tokenizer)
        print_tables(result_table(clips, f"{folder.name}: {options.n} clips, second renderer"))
        report |= {"clips": options.n, "figures": _figures(clips)}
    if options.streams:
        rows = _stream_rows(options, backend, tokenizer, configs)
        title = f"{folder.name}: {options.streams} streams, second renderer"
        values = ["\n".join(json.dumps(value) for value in c.values()) for c in changes]
        named = ", ".join(["figure", *changes[0]])
        table = text_table(title, ("", named), [value or "value" for value in values])
        for of_metric in zip(*rows):
            first = of_metric[0]
            table.add_row(first.task, name_of(first), *(number(row.value) for row in of_metric))
        print_tables(table)
        variants = [
            {"settings": dict(changed), "figures": _figures(found)}
            for changed, found in zip(changes, rows)
        ]
        report |= {"streams": options.streams, "variants": variants}
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    if options.out is not None:
        write_text(options.out, json.dumps(without_nan(report), indent=1) + "\n")
    return 0


def _draw(options: argparse.Namespace) -> int:
    if options.sheet.suffix.lower() != ".png":
        raise ConfigError(f"--sheet is {options.sheet}; expected a .png file")
    seeds = range(options.seed, options.seed + min(options.n, SHEET_CLIPS))
    if not seeds:
        raise ConfigError("--sheet needs clips", "set --n to at least 1")
    sheet = contact_sheet([make_clip(seed) for seed in seeds])
    cv2.imwrite(str(options.sheet), sheet[:, :, ::-1])
    return 0


def _clip_rows(
    options: argparse.Namespace, backend: Backend, tokenizer: Tokenizer
) -> list[MetricRow]:
    model = backend.describe().model
    frames, size = model.num_frames, model.image_size
    seeds = range(options.seed, options.seed + options.n)
    clips = (
        clip_questions(make_clip(seed, num_frames=frames, size=size), seed, seed, CATEGORIES)
        for seed in tqdm(seeds, unit="clip", disable=None)
    )
    return clip_rows(score_clips(clips, backend, tokenizer))


def _stream_rows(
    options: argparse.Namespace,
    backend: Backend,
    tokenizer: Tokenizer,
    configs: Sequence[GrounderConfig],
) -> list[list[MetricRow]]:
    seeds = range(options.seed, options.seed + options.streams)
    with (
        stream_store(options.store) as store,
        tqdm(total=2 * len(seeds), unit="step", disable=None) as bar,
    ):
        bags = record_streams(seeds, options.queries, store, on_recorded=bar.update)
        return score_streams(bags, backend, tokenizer, configs, bar.update)


def _figures(rows: Sequence[MetricRow]) -> dict[str, float]:
    return {f"{row.task} {row.metric}": row.value for row in rows}


if __name__ == "__main__":
    sys.exit(main())
