"""Association of answers with tracks by the IoU of their tubes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

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

MAX_TUBE_BOXES = 256  # of a track; the oldest are dropped


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


def merge_tubes(track: BoxTube, new: BoxTube) -> BoxTube:
    """Return the track's tube up to the start of the new one, followed by the new one.

    The new answer has seen the newest frames, so it also decides where the tube ends. At most
    MAX_TUBE_BOXES boxes are kept, the newest ones.
    """
    earlier = bisect_left(track.stamps, new.stamps[0])
    stamps = (track.stamps[:earlier] + new.stamps)[-MAX_TUBE_BOXES:]
    boxes = (track.boxes[:earlier] + new.boxes)[-MAX_TUBE_BOXES:]
    return BoxTube(stamps, boxes)


@dataclass
class _ActiveTrack:
    track_id: int
    tube: BoxTube
    grounding: Grounding
    grounded: bool  # the latest answer contains it up to the newest frames of the window
    last_answer: int  # when an answer last contained it
    lost_since: int | None = None

    def lose(self, now: int) -> None:
        self.lost_since = now if self.lost_since is None else self.lost_since


class TrackAssociator:
    """The tracks of one query on one camera.

    A track is GROUNDED while the latest answer contains it up to the newest frames of the window
    (within ``event_gap_seconds``), else LOST. It is dropped when it has been lost for
    ``track_timeout_seconds``. Without new answers it is LOST after the query's period plus the
    timeout.

    ``now`` is a time on the camera's clock in ns.

    Args:
        query: The query.
        ids: Yields track ids.
        config: IoU threshold, gap and timeout.
    """

    def __init__(self, query: Query, ids: Iterator[int], config: GrounderConfig) -> None:
        self._query = query
        self._ids = ids
        self._tracks: list[_ActiveTrack] = []
        self.configure(config)

    def configure(self, config: GrounderConfig) -> None:
        """Change the settings from the next answer on; tracks are kept."""
        self._min_iou = config.association_iou
        self._max_gap = to_nanoseconds(config.event_gap_seconds)
        self._timeout = to_nanoseconds(config.track_timeout_seconds)
        self._answer_timeout = self._timeout + to_nanoseconds(self._query.period)

    def update(self, grounding: Grounding, now: int) -> None:
        """Continue the track that an answer belongs to, or start one."""
        for track in self._tracks:
            track.grounded = False
        tube = grounding.tube
        if len(tube):
            grounded = grounding.window[-1] - tube.stamps[-1] <= self._max_gap
            best = max(self._tracks, key=lambda track: tube_iou(track.tube, tube), default=None)
            if best is not None and tube_iou(best.tube, tube) >= self._min_iou:
                best.tube = merge_tubes(best.tube, tube)
                best.grounding, best.grounded, best.last_answer = grounding, grounded, now
                best.lost_since = None
            else:
                merged = merge_tubes(BoxTube(), tube)
                new = _ActiveTrack(next(self._ids), merged, grounding, grounded, now)
                self._tracks.append(new)
        for track in self._tracks:
            if not track.grounded:
                track.lose(now)

    def tracks(self, now: int) -> tuple[Track, ...]:
        """Return all active tracks, oldest first; drop those that were lost too long ago."""
        for track in self._tracks:
            if now - track.last_answer > self._answer_timeout:
                track.grounded = False
                track.lose(track.last_answer + self._answer_timeout)
        self._tracks = [
            track
            for track in self._tracks
            if track.lost_since is None or now - track.lost_since <= self._timeout
        ]
        return tuple(self._record(track) for track in self._tracks)

    def clear(self) -> None:
        """Drop all tracks, after a stream reset."""
        self._tracks.clear()

    def _record(self, track: _ActiveTrack) -> Track:
        grounding = track.grounding
        return Track(
            query_id=self._query.id,
            track_id=track.track_id,
            label=self._query.text,
            tube=track.tube,
            state=TrackState.GROUNDED if track.grounded else TrackState.LOST,
            confidence=grounding.confidence,
            camera=grounding.camera,
            frame_id=grounding.frame_id,
            width=grounding.width,
            height=grounding.height,
        )
