"""Print the scores of standing queries on simulated streams by ``no_match_threshold``.

scripts/with_ros python -m benchmarks.stream [--split validation] [--videos 12]
    [--thresholds 0.5 0.35 0.2 0.1] [--model DIR] [--threads 2] [--out FILE.json]

Each video of the split is recorded as a bag (this needs the renderer) and replayed through the
Grounder once per threshold, with a standing query for each of its events. vIoU, tIoU and sIoU are
those of ``llava_st_ros.evaluation.stream_scores``, as means over all queries.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.evaluation.replay import replay
from llava_st_ros.evaluation.stream_scores import (
    StreamScore,
    mean_scores,
    read_ground_truth,
    score_query,
)
from llava_st_ros.grounder import Grounder
from llava_st_ros.media.sources import BagSource
from llava_st_ros.records import Query
from llava_st_ros.simulation.bag_writer import TRUTH_FILE, write_bag
from llava_st_ros.simulation.simulator import simulate_video, split_seed

PERIOD = 1.0  # s


def score_bag(grounder: Grounder, bag: Path) -> list[StreamScore]:
    """Replay a bag with every query of its ground truth; return the scores."""
    # Renumbered: two events of one kind and object have the same id in the ground truth.
    annotated = [
        replace(query, id=str(i)) for i, query in enumerate(read_ground_truth(bag / TRUTH_FILE))
    ]
    queries = [Query(q.id, q.text, q.task, period=PERIOD) for q in annotated]
    result = replay(grounder, BagSource(bag), queries)
    result.check_complete()
    return [score_query(result.recording, query, result.stamps) for query in annotated]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="validation")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.5, 0.35, 0.2, 0.1])
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the scores as JSON")
    options = parser.parse_args()

    folder = options.model or default_model()
    backend, tokenizer = load_backend(folder, threads=options.threads)
    configs = {
        value: GrounderConfig(StreamConfig(history=HISTORY), no_match_threshold=value)
        for value in options.thresholds
    }
    scores: dict[float, list[StreamScore]] = {value: [] for value in options.thresholds}
    with tempfile.TemporaryDirectory() as bags:
        for index in tqdm(range(options.videos), unit="video"):
            bag = Path(bags) / str(index)
            video = simulate_video(split_seed(options.split, index))
            write_bag(video, bag, queries=video.events)
            for value, config in configs.items():
                grounder = Grounder(backend, tokenizer, config)
                scores[value] += score_bag(grounder, bag)
    report = {
        "model": folder.name,
        "split": options.split,
        "videos": options.videos,
        "queries": len(scores[options.thresholds[0]]),
        "no_match_thresholds": {str(value): mean_scores(rows) for value, rows in scores.items()},
    }
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(f"{report['queries']} queries in {options.videos} videos of {options.split}")
    for value, means in report["no_match_thresholds"].items():
        print(
            f"no_match_threshold {value:>5}: " + "  ".join(f"{n} {v:.3f}" for n, v in means.items())
        )


if __name__ == "__main__":
    main()
