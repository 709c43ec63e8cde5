"""Evaluate a model on a rosbag2 recording with ground truth: vIoU per standing query.

    python examples/evaluate_a_bag.py demo/bag

Needs no ROS. The bag's folder holds ``truth.json``: the queries, and the spans and boxes of what
they describe. Frames are replayed as fast as the model answers, with their stamps as the clock.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llava_st_ros import Grounder, GrounderConfig, Query, StreamConfig, load_backend
from llava_st_ros.config import HISTORY
from llava_st_ros.evaluation.replay import replay
from llava_st_ros.evaluation.stream_scores import mean_scores, read_ground_truth, score_query
from llava_st_ros.media.sources import BagSource

DEFAULT_MODEL = Path(__file__).resolve().parents[1] / "models" / "llava-st-tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path, help="folder of the bag and truth.json")
    parser.add_argument("--topic", help="image topic (default: the only one)")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--period", type=float, default=1.0, help="seconds between evaluations")
    args = parser.parse_args()

    annotated = read_ground_truth(args.bag / "truth.json")
    queries = [Query(q.id, q.text, q.task, period=args.period) for q in annotated]
    config = GrounderConfig(stream=StreamConfig(history=HISTORY))
    grounder = Grounder(*load_backend(args.model), config)
    source = BagSource(args.bag, args.topic)
    result = replay(grounder, source, queries)
    for note in (*source.notes, *result.notes):
        print(note)
    result.check_complete()

    scores = [score_query(result.recording, query, result.stamps) for query in annotated]
    for score in scores:
        print(f"vIoU {score.viou:.3f}  tIoU {score.tiou:.3f}  {score.text}")
    print(f"mean vIoU {mean_scores(scores)['viou']:.3f} over {len(result.stamps)} frames")


if __name__ == "__main__":
    main()
