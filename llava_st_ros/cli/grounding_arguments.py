"""The arguments of how queries are answered, and by which model; shared by commands."""

from __future__ import annotations

import argparse
from pathlib import Path

from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.streaming.frame_gate import TRACK_RATE


def add_grounding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --window, --history, --no-match-threshold, --min-confidence and the model's arguments."""
    parser.add_argument(
        "--window",
        type=float,
        default=6.0,
        metavar="S",
        help="seconds of footage in the window (default 6)",
    )
    parser.add_argument(
        "--history",
        type=float,
        default=HISTORY,
        metavar="P",
        help="fraction of the window to be seen before a video query is first evaluated "
        f"(default {HISTORY})",
    )
    parser.add_argument(
        "--no-match-threshold",
        type=float,
        default=GrounderConfig.no_match_threshold,
        metavar="P",
        help='answer "no match" if its probability is at or above this; 1: never '
        f"(default {GrounderConfig.no_match_threshold})",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.0,
        metavar="P",
        help="treat answers below this confidence as no match",
    )
    add_model_arguments(parser)


def add_track_rate_argument(parser: argparse.ArgumentParser) -> None:
    """Add --track-rate, which is None if it is not given."""
    parser.add_argument(
        "--track-rate",
        type=float,
        metavar="HZ",
        help="carry tracks to at most so many frames per second between answers, as the node; 0: "
        f"to none (default {TRACK_RATE:g})",
    )


def track_rate(args: argparse.Namespace) -> float:
    """Return the track rate of parsed arguments. Raises ConfigError."""
    rate = TRACK_RATE if args.track_rate is None else float(args.track_rate)
    if not 0 <= rate <= 1000:
        raise ConfigError(f"--track-rate is {rate:g}; expected 0 to 1000 Hz")
    return rate


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --model, --backend and --device."""
    parser.add_argument(
        "--model", type=Path, help="checkpoint or engine directory (default: llava-st-tiny)"
    )
    parser.add_argument("--backend", default="", help="runtime (default: the model's own)")
    parser.add_argument(
        "--device", default="", help="device (default: cuda for TensorRT, otherwise cpu)"
    )


def grounder_config(
    args: argparse.Namespace, max_queries: int = GrounderConfig.max_queries
) -> GrounderConfig:
    """Return the settings of parsed arguments. Raises ConfigError."""
    return GrounderConfig(
        stream=StreamConfig(window_seconds=args.window, history=args.history),
        no_match_threshold=args.no_match_threshold,
        max_queries=max_queries,
        min_confidence=args.min_confidence,
    )
