"""Evaluate a model on a rosbag2 recording with ground truth: the scores of its standing queries.

    python examples/evaluate_a_bag.py demo/bag

Needs no ROS; pip install 'llava_st_ros[evaluation]'. The bag's folder holds ``annotations.json``:
queries, and the spans and boxes of what they describe. Frames are replayed as fast as the model
answers, with their stamps as the clock.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from llava_st_ros import Grounder, GrounderConfig, Query, StreamConfig, load_backend
from llava_st_ros.annotations.annotation_file import annotation_path, read_annotations
from llava_st_ros.config import HISTORY
from llava_st_ros.evaluation.replay import replay
from llava_st_ros.evaluation.result_table import result_table
from llava_st_ros.evaluation.results import rows_of
from llava_st_ros.evaluation.streams.scores import STREAM_METRICS, score_stream
from llava_st_ros.media.sources import BagSource

DEFAULT_MODEL = Path(__file__).resolve().parents[1] / "models" / "llava-st-tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path, help="folder of the bag and its annotations")
    parser.add_argument("--topic", help="image topic (default: the only one)")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--period", type=float, default=1.0, help="seconds between evaluations")
    args = parser.parse_args()

    truth = read_annotations(annotation_path(args.bag))
    queries = [Query(q.id, q.text, q.task, period=args.period) for q in truth.queries]
    config = GrounderConfig(stream=StreamConfig(history=HISTORY))
    grounder = Grounder(*load_backend(args.model), config)
    source = BagSource(args.bag, args.topic)
    result = replay(grounder, source, queries)
    for note in (*source.notes, *result.notes):
        print(note)

    stamps = {number: stream.stamps for number, stream in enumerate(result.streams)}
    cases = []
    for query in truth.queries:
        scores = score_stream(result.published, query, truth, stamps)
        cases.append(scores.as_case(query.id, source.name, query))
        print(f"vIoU {scores.values.get('final_viou', 0.0):.3f}  {query.text}", *scores.problems)
    rows = rows_of("stream", STREAM_METRICS, cases)
    Console().print(result_table(rows, f"{len(cases)} queries, {len(result.stamps)} frames"))


if __name__ == "__main__":
    main()
