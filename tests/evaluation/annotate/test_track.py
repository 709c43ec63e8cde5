"""The page's boxes over time, compared with a model of keyframes and ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rosbags.rosbag2 import StoragePlugin

from llava_st_ros.evaluation.annotate.server import AnnotationServer
from support.bags import images, write_recording
from support.chromium import open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Serve = Callable[[Path], AnnotationServer]
FRAMES = 12
TIMES = [0, 1, 2, 4, 5, 6, 7, 10, 11, 12, 13, 15]  # uneven, as stamps are
RUN = """
async ([sequences, times]) => {
  const T = await import("./track.js");
  const operations = {
    set: (t, f, v) => T.setBox(t, f, [v, v, v + 10, v + 10], times),
    remove: (t, f) => T.removeBox(t, f, times),
    end: (t, f) => T.endAt(t, f),
    continue: (t, f) => T.continueAt(t, f, times),
  };
  return sequences.map((sequence) => {
    let track = T.EMPTY;
    return sequence.map(([name, frame, value]) => {
      track = operations[name](track, frame, value);
      return {
        boxes: [...track.boxes].map(([f, box]) => [f, box[0]]),
        keys: [...track.keys],
        ends: [...track.ends],
        implied: [...T.impliedEnds(track.boxes, track.keys, times.length)],
        runs: T.runs(track.boxes.keys()),
      };
    });
  });
}
"""


@dataclass
class Model:
    """Keyframes (frame to left side) and the frames from which the object is not visible."""

    keys: dict[int, float] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)

    def before(self, frame: int) -> int | None:
        return max((k for k in self.keys if k < frame), default=None)

    def after(self, frame: int) -> int | None:
        return min((k for k in self.keys if k > frame), default=None)

    def end_in(self, start: int, end: int | None) -> int | None:
        limit = FRAMES if end is None else end
        return min((e for e in self.ends if start < e <= limit), default=None)

    def is_visible(self, frame: int) -> bool:
        if frame in self.keys:
            return True
        key = self.before(frame)
        if key is None:
            return False
        after = self.after(key)
        end = self.end_in(key, after)
        return frame < end if end is not None else after is not None

    def value(self, frame: int) -> float | None:
        """The left side where it is determined: on keyframes, and between two without an end."""
        if frame in self.keys:
            return self.keys[frame]
        key = self.before(frame)
        after = None if key is None else self.after(key)
        if key is None or after is None or self.end_in(key, after) is not None:
            return None
        share = (TIMES[frame] - TIMES[key]) / (TIMES[after] - TIMES[key])
        return self.keys[key] + (self.keys[after] - self.keys[key]) * share

    def set(self, frame: int, value: float) -> None:
        self.keys[frame] = value
        self.ends.discard(frame)

    def remove(self, frame: int, shown: dict[int, float]) -> None:
        if not self.is_visible(frame):
            return
        if frame not in self.keys:
            if frame + 1 in self.ends:
                self.ends.remove(frame + 1)
            elif self.is_visible(frame + 1):
                self.keys.setdefault(frame + 1, shown[frame + 1])
            self.ends.add(frame)
            return
        before = self.before(frame)
        if before is None or self.end_in(before, frame) is not None:
            self.ends.discard(self.end_in(frame, self.after(frame)) or -1)
        del self.keys[frame]

    def end(self, frame: int) -> None:
        before, after = self.before(frame), self.after(frame)
        limit = FRAMES if after is None else after
        is_hidden = before is None or self.end_in(before, frame) is not None
        self.keys.pop(frame, None)
        self.ends = {e for e in self.ends if not frame < e <= limit}
        if not is_hidden:
            self.ends.add(frame)


def sequence(seed: int) -> list[tuple[str, int, int]]:
    """Operations on the frames, as a user can make them."""
    source = random.Random(seed)
    names = ["set"] * 4 + ["remove"] * 2 + ["end"] * 2 + ["continue"]
    count = source.randint(2, 12)
    return [
        (source.choice(names), source.randrange(FRAMES), source.randrange(100))
        for _ in range(count)
    ]


def check(model: Model, shown: dict[str, Any]) -> None:
    boxes = dict(shown["boxes"])
    visible = [frame for frame in range(FRAMES) if model.is_visible(frame)]
    assert sorted(boxes) == visible
    assert set(shown["keys"]) == set(model.keys)
    assert set(shown["ends"]) == model.ends
    for frame in visible:
        if (value := model.value(frame)) is not None:
            assert boxes[frame] == pytest.approx(value)
    # What a reload finds from the boxes alone: every end but one directly behind the last box.
    last = visible[-1] if visible else -1
    assert set(shown["implied"]) - {last + 1} == {e for e in model.ends if e <= last}
    listed = [frame for first, end in shown["runs"] for frame in range(first, end + 1)]
    assert listed == visible


def test_boxes_follow_from_keyframes_and_ends(
    chromium: Browser, serve: Serve, tmp_path: Path
) -> None:
    server = serve(write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(2)))
    sequences = [sequence(seed) for seed in range(150)]
    with open_page(chromium, server.url) as page:
        results = page.evaluate(RUN, [sequences, TIMES])
    names = set()
    for operations, states in zip(sequences, results, strict=True):
        model, shown = Model(), {"boxes": []}
        for (name, frame, value), state in zip(operations, states, strict=True):
            names.add(name)
            if name == "set":
                model.set(frame, value)
            elif name == "remove":
                model.remove(frame, dict(shown["boxes"]))
            elif name == "end":
                model.end(frame)
            else:
                model.ends.discard(frame)
            check(model, state)
            shown = state
    assert names == {"set", "remove", "end", "continue"}
