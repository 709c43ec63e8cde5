"""Print how many clips and videos per minute the simulator renders, and where the time is spent.

scripts/with_ros python -m benchmarks.simulator [--clips 100] [--workers 2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from llava_st_ros.simulation import clip_rendering, simulator
from llava_st_ros.simulation.clip_store import render_shards
from llava_st_ros.simulation.sensor_effects import SensorEffects
from llava_st_ros.simulation.simulator import simulate_clip, split_seed
from llava_st_ros.simulation.streams import simulate_training_video

STAGES = {
    "physics": (simulator, "Rollout"),
    "boxes": (simulator, "render_boxes"),
    "frames": (simulator, "render_frames"),
    "textures (of frames)": (clip_rendering, "fill_textures"),
    "sensor effects (of frames)": (SensorEffects, "apply"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100, help="number of clips to render")
    parser.add_argument("--workers", type=int, default=2, help="number of rendering processes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for _ in render_shards(
            Path(folder), "train", options.clips, num_frames=20, size=144, workers=options.workers
        ):
            pass
        minutes = (time.perf_counter() - start) / 60
    print(f"{options.clips / minutes:.0f} clips/min with {options.workers} workers")
    seconds = {name: _timed(*target) for name, target in STAGES.items()}
    start = time.perf_counter()
    for index in range(options.clips // 4):
        simulate_clip(split_seed("train", index))
    total = time.perf_counter() - start
    print(f"one process: {1000 * total / (options.clips // 4):.0f} ms per clip")
    for name, calls in seconds.items():
        print(f"  {name:28} {sum(calls) / total:5.0%}")
    start_cpu = time.process_time()
    videos = max(1, options.clips // 10)
    for index in range(videos):
        simulate_training_video(split_seed("wide", index))
    per_minute = 60 * videos / (time.process_time() - start_cpu)
    print(f"one process: {per_minute:.0f} videos of 120 frames per minute of CPU time")


def _timed(owner: object, name: str) -> list[float]:
    """Replace a function by one that records how long each call takes, in seconds."""
    function = getattr(owner, name)
    seconds: list[float] = []

    def wrapped(*arguments: object) -> object:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            seconds.append(time.perf_counter() - start)

    setattr(owner, name, wrapped)
    return seconds


if __name__ == "__main__":
    main()
