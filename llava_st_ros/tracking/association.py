"""Which object is it: a new answer's tube against the tracks that a query already has."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from llava_st_ros.config import GrounderConfig
from llava_st_ros.records import (
    NANOSECONDS,
    Box,
    BoxTube,
    Grounding,
    Query,
    Track,
    TrackState,
)

MAX_TUBE_BOXES = 256  # of a track; the oldest are forgotten


def box_at(tube: BoxTube, stamp: int) -> Box:
    """A tube's box at a stamp (ns): linear between its boxes, its first or last outside them."""
    place = bisect_left(tube.stamps, stamp)
    if place == len(tube) or (place == 0 or tube.stamps[place] == stamp):
        return tube.boxes[min(place, len(tube) - 1)]
    before, after = tube.boxes[place - 1], tube.boxes[place]
    start, end = tube.stamps[place - 1], tube.stamps[place]
    weight = (stamp - start) / (end - start)
    return Box(
        *(
            a + (b - a) * weight
            for a, b in zip(
                (before.x1, before.y1, before.x2, before.y2),
                (after.x1, after.y1, after.x2, after.y2),
            )
        )
    )


def tube_iou(running: BoxTube, new: BoxTube) -> float:
    """How well a new tube continues a running one: a mean IoU in [0, 1], 0 if either is empty.

    The mean is over the new tube's stamps inside the running tube's time, whose boxes are
    interpolated where a stamp is not shared. Tubes that do not meet in time are compared at the
    two boxes nearest to each other.
    """
    if not len(running) or not len(new):
        return 0.0
    shared = [s for s in new.stamps if running.stamps[0] <= s <= running.stamps[-1]]
    if shared:
        boxes = new.as_dict()
        return sum(boxes[s].iou(box_at(running, s)) for s in shared) / len(shared)
    if new.stamps[0] <= running.stamps[0] and new.stamps[-1] >= running.stamps[-1]:
        inner = [box.iou(box_at(new, s)) for s, box in running.as_dict().items()]
        return sum(inner) / len(inner)
    if new.stamps[0] > running.stamps[-1]:
        return new.boxes[0].iou(running.boxes[-1])
    return new.boxes[-1].iou(running.boxes[0])


def merge_tubes(running: BoxTube, new: BoxTube) -> BoxTube:
    """The running tube up to where the new one begins, then the new one.

    The new answer saw all that the old one saw and more, so it also has the last word on where the
    tube ends. At most MAX_TUBE_BOXES boxes, the newest.
    """
    kept = bisect_left(running.stamps, new.stamps[0])
    stamps = (running.stamps[:kept] + new.stamps)[-MAX_TUBE_BOXES:]
    boxes = (running.boxes[:kept] + new.boxes)[-MAX_TUBE_BOXES:]
    return BoxTube(stamps, boxes)


@dataclass
class _Running:
    track_id: int
    tube: BoxTube
    grounding: Grounding
    current: bool  # the last answer has it, up to the window's newest frames
    answered: int  # when an answer last had it
    lost: int | None = None  # since when it has been lost

    def lose(self, now: int) -> None:
        self.lost = now if self.lost is None else self.lost


class TrackAssociator:
    """The tracks of one query on one camera.

    A track is GROUNDED while the last answer has it up to the window's newest frames (within
    ``event_gap_seconds``), else LOST. A lost track that no answer has for
    ``track_timeout_seconds`` is dropped; so is one whose answers stop coming: it is LOST after the
    query's period and the timeout, and dropped a timeout later. ``ids`` gives track ids.

    Times named ``now`` are the grounder's clock in ns and only their differences count.
    """

    def __init__(self, query: Query, ids: Iterator[int], config: GrounderConfig) -> None:
        self._query = query
        self._ids = ids
        self._running: list[_Running] = []
        self.configure(config)

    def configure(self, config: GrounderConfig) -> None:
        """Take other settings from the next answer on; tracks stay."""
        self._min_iou = config.association_iou
        self._tail = round(config.event_gap_seconds * NANOSECONDS)
        self._timeout = round(config.track_timeout_seconds * NANOSECONDS)
        self._patience = self._timeout + round(self._query.period * NANOSECONDS)

    def update(self, grounding: Grounding, now: int) -> None:
        """Take one answer: continue the track that it is about, or begin one."""
        for running in self._running:
            running.current = False
        tube = grounding.tube
        if len(tube):
            current = grounding.window[-1] - tube.stamps[-1] <= self._tail
            best = max(self._running, key=lambda r: tube_iou(r.tube, tube), default=None)
            if best is not None and tube_iou(best.tube, tube) >= self._min_iou:
                best.tube = merge_tubes(best.tube, tube)
                best.grounding, best.current, best.answered = grounding, current, now
                best.lost = None
            else:
                merged = merge_tubes(BoxTube(), tube)
                self._running.append(_Running(next(self._ids), merged, grounding, current, now))
        for running in self._running:
            if not running.current:
                running.lose(now)

    def tracks(self, now: int) -> tuple[Track, ...]:
        """Every living track, oldest first; those lost for too long are dropped."""
        for running in self._running:
            if now - running.answered > self._patience:
                running.current = False
                running.lose(running.answered + self._patience)
        self._running = [
            r for r in self._running if r.lost is None or now - r.lost <= self._timeout
        ]
        return tuple(self._track(running) for running in self._running)

    def clear(self) -> None:
        """Drop every track: the stream began anew."""
        self._running.clear()

    def _track(self, running: _Running) -> Track:
        grounding = running.grounding
        return Track(
            query_id=self._query.id,
            track_id=running.track_id,
            label=self._query.text,
            tube=running.tube,
            state=TrackState.GROUNDED if running.current else TrackState.LOST,
            confidence=grounding.confidence,
            camera=grounding.camera,
            frame_id=grounding.frame_id,
            width=grounding.width,
            height=grounding.height,
        )
