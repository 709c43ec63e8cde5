"""Evaluate a model on a rosbag2 recording with ground truth: the scores of its standing queries.

    python examples/evaluate_a_bag.py demo/bag

Needs no ROS. The bag's folder holds ``annotations.json``: queries, and the spans and boxes of what
they describe. Frames are replayed as fast as the model answers, with their stamps as the clock.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from llava_st_ros import GrounderConfig, StreamConfig, load_backend
from llava_st_ros.annotations.annotation_file import annotation_path
from llava_st_ros.config import HISTORY
from llava_st_ros.evaluation.bag_evaluation import BagJob, evaluate_bag, stream_rows
from llava_st_ros.evaluation.result_table import result_table

DEFAULT_MODEL = Path(__file__).resolve().parents[1] / "models" / "llava-st-tiny-cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path, help="annotated bag")
    parser.add_argument("--topic", default="", help="image topic (default: all annotated ones)")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--period", type=float, default=1.0, help="seconds between evaluations")
    args = parser.parse_args()

    config = GrounderConfig(stream=StreamConfig(history=HISTORY))
    annotations = annotation_path(args.bag)
    job = BagJob(args.bag.name, args.bag, annotations, args.topic, config, args.period)
    outcome = evaluate_bag(job, *load_backend(args.model))
    for line in outcome.dropped:
        print(line)
    for case in outcome.cases:
        print(f"vIoU {case.values.get('final_viou', 0.0):.3f}  {case.query}", *case.problems)
    rows = stream_rows(outcome.cases)
    Console().print(result_table(rows, f"{len(outcome.cases)} queries, {outcome.frames} frames"))


if __name__ == "__main__":
    main()
