"""Record demo/bag: a simulated video of the test split as a rosbag2 bag.

    scripts/with_ros python -m demo.make_bag [--index 4] [--out demo/bag]

Needs the renderer (EGL or OSMesa); the demo itself does not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava_st_ros.errors import LlavaStError
from llava_st_ros.simulation.bag_writer import write_bag
from llava_st_ros.simulation.simulator import simulate_video, split_seed
from llava_st_ros.simulation.video_queries import event_queries, object_query

INDEX = 4  # in the test split: three objects of three colors, two of one shape, five events
EVENTS = (1, 2)  # each described by an STVG query
TRACKED_EVENT = 4  # its object is tracked by a REC query


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--index", type=int, default=INDEX, help="video of the test split")
    arguments.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "bag")
    options = arguments.parse_args()
    try:
        video = simulate_video(split_seed("test", options.index))
        write_bag(
            video,
            options.out,
            topic="/camera/image/compressed",
            queries=[
                *event_queries(video, [video.events[i] for i in EVENTS]),
                object_query(video, video.events[TRACKED_EVENT].subject),
            ],
        )
    except LlavaStError as error:
        print(f"make_bag: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
