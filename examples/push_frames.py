"""Push the frames of a video or of a folder of images into a Grounder; print tracks and events.

    python examples/push_frames.py robot.mp4 "the red ball rolls" "the blue cube is lifted"

Needs no ROS. Each text becomes a standing query, which is evaluated once per second of footage over
the last six seconds. The default model is trained on simulated tabletops only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava_st_ros import Grounder, Query, Tick, load_backend
from llava_st_ros.errors import LlavaStError
from llava_st_ros.media.sources import ImageFolderSource, VideoSource

DEFAULT_MODEL = Path(__file__).resolve().parents[1] / "models" / "llava-st-tiny-cpu"


def show(tick: Tick) -> None:
    """Print the tracks after a new answer, and the events that changed."""
    for track in tick.tracks if tick.groundings else ():
        box = track.box
        corners = f"{box.x1:.2f},{box.y1:.2f} {box.x2:.2f},{box.y2:.2f}"
        print(
            f"track {track.track_id} {track.state.name} at {track.stamp / 1e9:.2f} s: [{corners}]"
        )
    for event in tick.events:
        times = f"{event.span.start / 1e9:.2f} to {event.span.end / 1e9:.2f} s"
        print(f"event {event.event_id} {event.state.name}: {times}, {event.text}")
    for failure in tick.failures:
        print(f"query {failure.query_id} failed: {failure.error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("footage", type=Path, help="a video file or a folder of images")
    parser.add_argument("queries", nargs="+", help="what to look for, in words")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    args = parser.parse_args()

    grounder = Grounder(*load_backend(args.model))
    for number, text in enumerate(args.queries):
        grounder.add_query(Query(f"q{number}", text, period=1.0))

    is_folder = args.footage.is_dir()
    for frame in ImageFolderSource(args.footage) if is_folder else VideoSource(args.footage):
        grounder.push(frame)
        show(grounder.tick())
    show(grounder.finish())  # evaluate what is left, and end the events


if __name__ == "__main__":
    try:
        main()
    except LlavaStError as error:
        sys.exit(f"push_frames: {error}")
