"""Measure a model on footage of a second renderer, with which nothing is trained.

scripts/with_ros python -m benchmarks.second_renderer --n 60 [--streams 6] [--model DIR]
    [--seed 0] [--queries 8] [--threads 1] [--sheet FILE.png] [--out FILE.json]

Clips are evaluated as by ``llava-st eval simulated``, streams of 40 s as by ``llava-st eval
streams``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

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
    stream_rows,
)
from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.cli.outputs import check_files, print_tables
from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import ConfigError, LlavaStError
from llava_st_ros.evaluation.result_table import result_table
from llava_st_ros.evaluation.results import MetricRow, without_nan
from llava_st_ros.evaluation.simulated import clip_questions

SHEET_CLIPS = 24


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=60, help="number of clips (default 60)")
    parser.add_argument("--streams", type=int, default=0, help="number of streams (default 0)")
    parser.add_argument("--queries", type=int, default=8, help="of a stream (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip and stream")
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--no-match-threshold",
        type=float,
        default=GrounderConfig.no_match_threshold,
        help="of the streams' standing queries",
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE.png",
        help=f"draw the first {SHEET_CLIPS} clips, no more",
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
    check_files(options.out, options.sheet)
    seeds = range(options.seed, options.seed + options.n)
    if options.sheet is not None:
        sheet = contact_sheet([make_clip(seed) for seed in seeds[:SHEET_CLIPS]])
        if not cv2.imwrite(str(options.sheet), sheet[:, :, ::-1]):
            raise ConfigError(f"cannot write {options.sheet}", "name a file that ends in .png")
        return 0
    start = time.monotonic()
    folder = options.model or default_model()
    backend, tokenizer = load_backend(folder, threads=options.threads)
    model = backend.describe().model
    clips = (
        clip_questions(
            make_clip(seed, num_frames=model.num_frames, size=model.image_size),
            seed,
            seed,
            CATEGORIES,
        )
        for seed in tqdm(seeds, unit="clip", disable=None)
    )
    rows: list[MetricRow] = clip_rows(score_clips(clips, backend, tokenizer))
    if options.streams:
        with TemporaryDirectory() as bags, tqdm(total=2 * options.streams, disable=None) as bar:
            recorded = record_streams(
                options.streams,
                options.queries,
                Path(bags),
                seed=options.seed,
                on_recorded=bar.update,
            )
            cases = score_streams(
                recorded,
                backend,
                tokenizer,
                no_match_threshold=options.no_match_threshold,
                on_scored=bar.update,
            )
        rows += stream_rows(cases)
    title = f"{folder.name}: {options.n} clips and {options.streams} streams, second renderer"
    print_tables(result_table(rows, title))
    seconds = round(time.monotonic() - start, 1)
    print(f"{seconds:g} s")
    if options.out is not None:
        figures = {f"{row.task} {row.metric}": without_nan(row.value) for row in rows}
        report = {
            "model": folder.name,
            "clips": options.n,
            "streams": options.streams,
            "seed": options.seed,
            "no_match_threshold": options.no_match_threshold,
            "figures": figures,
        }
        write_text(options.out, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
