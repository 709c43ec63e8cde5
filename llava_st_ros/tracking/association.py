"""Tracks: which boxes of successive answers are the same object."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llava_st_ros.config import GrounderConfig
from llava_st_ros.records import (
    Box,
    BoxTube,
    Grounding,
    Query,
    Track,
    TrackState,
    to_nanoseconds,
)
from llava_st_ros.tracking.events import MAX_TUBE_BOXES, EventTube
from llava_st_ros.tracking.evidence import Sighting

MAX_OBJECTS = 16  # of a query on a camera that are remembered; the longest unseen are forgotten
NEWEST_SHARE = 0.5  # of the newest answer in the presence of an object
MAX_SIZE_RATIO = 2.0  # of the sides of an object that is seen again
REACH = 2.0  # sides that the center of an object that is seen again may have moved


def box_at(tube: BoxTube, stamp: int) -> Box:
    """Return a tube's box at a stamp (ns): interpolated, or its first or last box outside."""
    index = bisect_left(tube.stamps, stamp)
    if index == len(tube) or (index == 0 or tube.stamps[index] == stamp):
        return tube.boxes[min(index, len(tube) - 1)]
    before, after = tube.boxes[index - 1], tube.boxes[index]
    start, end = tube.stamps[index - 1], tube.stamps[index]
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


def tube_iou(track: BoxTube, new: BoxTube) -> float:
    """Return how well a new tube continues a track's tube: a mean IoU, 0 if either is empty.

    The mean is over the stamps of the new tube inside the track's time; the track's boxes are
    interpolated. Tubes that do not overlap in time are compared at their two nearest boxes.
    """
    if not len(track) or not len(new):
        return 0.0
    shared = [s for s in new.stamps if track.stamps[0] <= s <= track.stamps[-1]]
    if shared:
        boxes = new.as_dict()
        return sum(boxes[s].iou(box_at(track, s)) for s in shared) / len(shared)
    if new.stamps[0] <= track.stamps[0] and new.stamps[-1] >= track.stamps[-1]:
        inner = [box.iou(box_at(new, s)) for s, box in track.as_dict().items()]
        return sum(inner) / len(inner)
    if new.stamps[0] > track.stamps[-1]:
        return new.boxes[0].iou(track.boxes[-1])
    return new.boxes[-1].iou(track.boxes[0])


def nearness(track: BoxTube, new: BoxTube) -> float:
    """Return how near a new tube begins to where a track has its object then, in [0, 1].

    0 if the sides of the two boxes differ by more than MAX_SIZE_RATIO, or their centers by REACH
    mean sides or more, or if either tube is empty.
    """
    if not len(track) or not len(new):
        return 0.0
    a, b = box_at(track, new.stamps[0]), new.boxes[0]
    sides = (a.x2 - a.x1, b.x2 - b.x1), (a.y2 - a.y1, b.y2 - b.y1)
    if any(max(pair) > MAX_SIZE_RATIO * min(pair) for pair in sides):
        return 0.0
    reach = REACH * sum(map(sum, sides)) / 4
    distance = math.dist((a.x1 + a.x2, a.y1 + a.y2), (b.x1 + b.x2, b.y1 + b.y2)) / 2
    return max(0.0, 1.0 - distance / reach) if reach > 0.0 else 0.0


def merge_tubes(track: BoxTube, new: BoxTube) -> BoxTube:
    """Return the track's tube up to the start of the new one, followed by the new one.

    The new answer has seen the newest frames, so it also decides where the tube ends. At most
    MAX_TUBE_BOXES boxes are kept, the newest ones.
    """
    if not len(new):
        return track
    earlier = bisect_left(track.stamps, new.stamps[0])
    stamps = (track.stamps[:earlier] + new.stamps)[-MAX_TUBE_BOXES:]
    boxes = (track.boxes[:earlier] + new.boxes)[-MAX_TUBE_BOXES:]
    return BoxTube(stamps, boxes)


@dataclass
class _Object:
    """An object that is or was tracked, or may become so.

    Attributes:
        grounding: The last answer about it.
        seen_at: When an answer last showed it (ns).
        lost_since: Since when it is LOST (ns); None while it is GROUNDED.
        track_id: Set when it is first published.
        final: Its boxes that no longer change.
        of_events: Its boxes in events that may still change, by event id.
        confidence: That of its track.
        presence: Moving mean of the answers' probability that it is there.
        answers: Number of answers that showed it.
    """

    grounding: Grounding
    seen_at: int
    lost_since: int | None
    track_id: int | None = None
    final: BoxTube = field(default_factory=BoxTube)
    of_events: dict[int, BoxTube] = field(default_factory=dict)
    confidence: float = 0.0
    presence: float = 0.0
    answers: int = 0

    @property
    def tube(self) -> BoxTube:
        tube = self.final
        for event_id in sorted(self.of_events, key=lambda i: self.of_events[i].stamps[0]):
            tube = merge_tubes(tube, self.of_events[event_id])
        return tube

    def set_grounded(self, grounded: bool, now: int) -> None:
        """Set whether it is there at a time (ns)."""
        if grounded:
            self.lost_since = None
        elif self.lost_since is None:
            self.lost_since = now

    def is_lost(self, now: int, timeout: int) -> bool:
        """Whether it has been LOST for longer than a timeout (ns)."""
        return self.lost_since is not None and now - self.lost_since > timeout


class TrackAssociator:
    """The tracks of one query on one camera.

    Of a query with events, a track has the boxes of confirmed events on one object. It is GROUNDED
    while such an event reaches the newest frames of the window (within ``event_gap_seconds``).

    Of other queries, a track has the boxes of the answers that show one object. It is GROUNDED
    while its presence, a moving mean of what the answers say, is at least ``evidence_off``: one
    answer that does not show it does not lose it, several do. While an object is GROUNDED, another
    one is published only when ``confirmations`` answers have shown it, since a query mostly
    describes one object.

    A track that is not GROUNDED is LOST; after ``track_timeout_seconds`` it is not published any
    more. Its object is remembered for ``memory_seconds``: boxes that overlap its last ones, or are
    near and of a similar size, continue it with its id. Without new answers a track is LOST after
    the timeout plus the time to the next answer: the query's period, or longer with a slow model.

    ``now`` is a time on the camera's clock in ns.

    Args:
        query: The query.
        ids: Yields track ids.
        config: IoU threshold, gap, timeouts, thresholds.
    """

    def __init__(self, query: Query, ids: Iterator[int], config: GrounderConfig) -> None:
        self._query = query
        self._ids = ids
        self._objects: list[_Object] = []
        self.configure(config)

    def configure(self, config: GrounderConfig) -> None:
        """Change the settings from the next answer on; tracks are kept."""
        self._min_iou = config.association_iou
        self._off = config.evidence_off
        self._confirmations = config.confirmations
        self._max_gap = to_nanoseconds(config.event_gap_seconds)
        self._timeout = to_nanoseconds(config.track_timeout_seconds)
        self._memory = max(self._timeout, to_nanoseconds(config.memory_seconds))
        self._period = to_nanoseconds(self._query.period)

    def update(self, sighting: Sighting, grounding: Grounding, now: int) -> None:
        """Process an answer of a query without events.

        Args:
            sighting: What the answer says.
            grounding: The answer.
            now: The time.
        """
        self._forget(now)
        tube, is_match = sighting.tube, not grounding.answer.no_match
        shown = self._find(tube) if len(tube) else None
        if shown is None and len(tube) and is_match:
            shown = _Object(grounding, now, now)
            self._objects.append(shown)
        is_newest = len(tube) > 0 and grounding.window[-1] - tube.stamps[-1] <= self._max_gap
        for item in self._objects:
            vote = sighting.probability if item is shown and is_newest else 0.0
            item.presence += (vote - item.presence) * NEWEST_SHARE
            if item is shown and is_match:
                item.presence = max(item.presence, vote)
                item.answers += 1
                item.lost_since = None  # if it is past, it is LOST from now on
            is_there = item.presence >= self._off
            if item is shown and (is_match or is_there):
                item.final = merge_tubes(item.final, tube)
                item.grounding, item.seen_at = grounding, now
                item.confidence = sighting.confidence
            item.set_grounded(is_there, now)
        self._publish()
        self._forget(now)

    def update_events(self, tubes: Sequence[EventTube], grounding: Grounding, now: int) -> None:
        """Process the events of a query after an answer.

        Args:
            tubes: The boxes of the confirmed events. Boxes of an event that is absent, and whose
                boxes were not final, are dropped: it was retracted.
            grounding: The answer.
            now: The time.
        """
        self._forget(now)
        tubes = [found for found in tubes if len(found.tube)]
        known = {found.event_id for found in tubes}
        for item in self._objects:
            for event_id in sorted(item.of_events.keys() - known):
                del item.of_events[event_id]
        for found in tubes:
            owner = next((i for i in self._objects if found.event_id in i.of_events), None)
            owner = owner or self._find(found.tube)
            if owner is None:
                owner = _Object(grounding, now, now, track_id=next(self._ids))
                self._objects.append(owner)
            owner.of_events[found.event_id] = found.tube
            owner.grounding, owner.seen_at = grounding, now
            owner.confidence = found.probability
        self._objects = [item for item in self._objects if len(item.tube)]
        final = {found.event_id for found in tubes if found.is_final}
        for item in self._objects:
            is_newest = grounding.window[-1] - item.tube.stamps[-1] <= self._max_gap
            item.set_grounded(bool(item.of_events) and is_newest, now)
            for event_id in sorted(item.of_events.keys() & final):
                item.final = merge_tubes(item.final, item.of_events.pop(event_id))
        self._forget(now)

    def lose(self, now: int) -> None:
        """Make every track LOST at a time: nothing shows any more that its object is there."""
        for item in self._objects:
            item.presence = 0.0
            item.set_grounded(False, now)

    def tracks(self, now: int, interval: int = 0, delay: int = 0) -> tuple[Track, ...]:
        """Return all active tracks, oldest first.

        Args:
            now: The time.
            interval: The time between answers (ns), where it is longer than the period.
            delay: The time from the newest image of an answer to the answer (ns).
        """
        timeout = self._timeout + max(self._period, interval) + delay
        for item in self._objects:
            if now - item.seen_at > timeout:
                item.presence = 0.0
                item.set_grounded(False, item.seen_at + timeout)
        self._forget(now)
        return tuple(
            self._record(item, item.track_id)
            for item in self._objects
            if item.track_id is not None and not item.is_lost(now, self._timeout)
        )

    def clear(self) -> None:
        """Forget all objects, after a stream reset."""
        self._objects.clear()

    def _find(self, tube: BoxTube) -> _Object | None:
        """Return the object that continues with a tube: the most overlapping, or else nearest."""
        objects = self._objects
        overlaps = [tube_iou(item.tube, tube) for item in objects]
        if overlaps and max(overlaps) >= self._min_iou:
            return objects[overlaps.index(max(overlaps))]
        distances = [nearness(item.tube, tube) for item in objects]
        if distances and max(distances) > 0.0:
            return objects[distances.index(max(distances))]
        return None

    def _publish(self) -> None:
        """Give ids to the objects that enough answers have shown."""
        published = [item for item in self._objects if item.track_id is not None]
        needed = self._confirmations if any(i.lost_since is None for i in published) else 1
        for item in self._objects:
            if item.track_id is None and item.answers >= needed:
                item.track_id = next(self._ids)

    def _forget(self, now: int) -> None:
        """Drop the objects that were lost too long ago, and those of the most distant past."""
        kept = [
            item
            for item in self._objects
            if not item.is_lost(now, self._timeout if item.track_id is None else self._memory)
        ]
        for _ in range(len(kept) - MAX_OBJECTS):
            kept.remove(min(kept, key=lambda item: item.seen_at))
        self._objects = kept

    def _record(self, item: _Object, track_id: int) -> Track:
        grounding = item.grounding
        return Track(
            query_id=self._query.id,
            track_id=track_id,
            label=self._query.text,
            tube=item.tube,
            state=TrackState.GROUNDED if item.lost_since is None else TrackState.LOST,
            confidence=item.confidence,
            camera=grounding.camera,
            frame_id=grounding.frame_id,
            width=grounding.width,
            height=grounding.height,
        )
