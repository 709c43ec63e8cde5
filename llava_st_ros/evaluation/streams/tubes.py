"""Where a query's object was published to be in each frame: as known in the end, and at the time.

The *final* boxes are those of the tracks as last published: later answers revise them. The *live*
boxes are what a robot has when it acts: at a frame's stamp s, the current boxes of the tracks in
the last tick that was published by s + allowance (streaming perception, arXiv 2005.10420, where
allowance = 0). A box is kept until the next tick; LOST tracks have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.evaluation.streams.query_stream import QueryStream
from llava_st_ros.evaluation.streams.query_truth import QueryTruth
from llava_st_ros.evaluation.streams.tracking_metrics import TrackingFrame
from llava_st_ros.records import Box, EventState, Track, TrackState

TrackBoxes = Mapping[int, Box]  # by track id, the best one first


def recorded(stream: QueryStream) -> Recording:
    """Return the final tracks and events of a query on one stream."""
    recording = Recording()
    last: dict[int, Track] = {}
    for tick in stream.ticks:
        for track in tick.tracks:
            before = last.get(track.track_id)
            # Most ticks repeat the tracks of the one before.
            if before is None or before.tube is not track.tube or before.state != track.state:
                recording.add_track(track)
            last[track.track_id] = track
        for event in tick.events:
            recording.add_event(event)
    return recording


def live_boxes(stream: QueryStream, allowance: int = 0) -> dict[int, TrackBoxes]:
    """Return the live boxes by the stamp of each frame that has any.

    The newest box comes first; of several of one stamp, a GROUNDED one, then that of the newest
    track.

    Args:
        stream: The stream.
        allowance: How much later than the frame (ns) a tick may be published to count for it.
    """
    found: dict[int, TrackBoxes] = {}
    for stamp in stream.stamps:
        tick = stream.latest(stamp + allowance)
        active = [t for t in tick.tracks if t.state is not TrackState.LOST] if tick else []
        active.sort(key=lambda t: (t.stamp, t.state is TrackState.GROUNDED, t.track_id))
        if active:
            found[stamp] = {track.track_id: track.box for track in reversed(active)}
    return found


def frames_in_events(stream: QueryStream, recording: Recording) -> set[int]:
    """Return the stamps of the frames that the final events contain, provisional ones excluded."""
    events = recording.events
    spans = [event.span for event in events if event.state is not EventState.PROVISIONAL]
    return {s for s in stream.stamps if any(span.start <= s <= span.end for span in spans)}


def frames_in_live_events(stream: QueryStream, allowance: int = 0) -> set[int]:
    """Return the stamps of the frames at which an event was CONFIRMED as last published.

    Args:
        stream: The stream.
        allowance: As for ``live_boxes``.
    """
    active: set[int] = set()
    ticks = list(reversed(stream.ticks))
    found = set()
    for stamp in stream.stamps:
        while ticks and ticks[-1].at <= stamp + allowance:
            for event in ticks.pop().events:
                if event.state is EventState.CONFIRMED:
                    active.add(event.event_id)
                else:
                    active.discard(event.event_id)
        if active:
            found.add(stamp)
    return found


def compared_frames(
    truth: QueryTruth,
    stamps: Sequence[int],
    boxes: Mapping[int, TrackBoxes],
    most: int | None = None,
) -> list[TrackingFrame]:
    """Return expected and predicted boxes of each frame that has any.

    While objects are hidden within a span, as many predicted boxes are ignored, as far as there
    are more predicted boxes than visible objects: first those that overlap the visible ones least.

    Args:
        truth: The ground truth.
        stamps: The stamps of the frames (ns).
        boxes: The predicted boxes by stamp.
        most: How many of a frame's predicted boxes to use, the first ones; None for all.
    """
    frames = []
    for stamp in stamps:
        expected = truth.expected(stamp)
        predicted = dict(list(boxes.get(stamp, {}).items())[:most])
        ignored = min(truth.hidden(stamp), len(predicted) - len(expected))
        if ignored > 0:
            overlaps = {
                track: max((box.iou(other) for other in expected.values()), default=0.0)
                for track, box in predicted.items()
            }
            for track in sorted(overlaps, key=lambda track: overlaps[track])[:ignored]:
                del predicted[track]
        if expected or predicted:
            frames.append(TrackingFrame(expected, predicted))
    return frames
