"""Windows of a video: what a model that sees a few of its frames can know about its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llava_st_ros.simulation.events import EventKind, SimulatedEvent
from llava_st_ros.simulation.simulator import SimulatedClip

# An event of which a window shows fewer frames can be neither asked about nor denied.
MIN_VISIBLE = 2
_EDGE = 0.015  # of the image: a box that is nearer to its border touches it
_PUSHED_ON = 0.01  # of the image: an object that was hit has moved further


@dataclass(frozen=True)
class VideoWindow:
    """Some frames of a video as a clip.

    Attributes:
        clip: The window. Its events are those of which enough is visible, with the visible part of
            their spans.
        absent: The video's events of which the window shows nothing: they are over or have not
            begun. Their spans are those in the video.
    """

    clip: SimulatedClip
    absent: tuple[SimulatedEvent, ...]


def window_of(video: SimulatedClip, frames: Sequence[int]) -> VideoWindow:
    """Cut a window out of a video.

    An event belongs to the window if at least ``MIN_VISIBLE`` of its frames are in it and it can
    be told from others by them: "leaves" needs the subject at the border of the image or gone,
    "enters" likewise, and "collides" the object that is hit moving. What is visible of another
    event is unclear (``SimulatedClip.unclear``), and so is the motion before an object stops. An
    object that something else hides at the end of the window may have left for who sees nothing
    but the window, and one that is hidden at its start may enter: these are unclear, too.

    Args:
        video: The video.
        frames: The indices of the window's frames in the video, in ascending order. An index may
            be repeated, as in a window of a camera that has just started.
    """
    indices = np.asarray(frames)
    boxes = video.boxes[indices]
    events: list[SimulatedEvent] = []
    unclear: list[SimulatedEvent] = []
    absent: list[SimulatedEvent] = []
    for event in video.events:
        slots = np.flatnonzero((indices >= event.span[0]) & (indices <= event.span[1]))
        before = np.flatnonzero(indices < event.span[0])
        if len(np.unique(indices[slots])) >= MIN_VISIBLE:
            part = replace(event, span=(int(slots[0]), int(slots[-1])))
            (events if _is_recognizable(part, event, indices, boxes) else unclear).append(part)
        elif len(slots):
            unclear.append(replace(event, span=(int(slots[0]), int(slots[-1]))))
        elif event.kind is EventKind.STOPS and len(before):
            unclear.append(replace(event, span=(int(before[0]), int(before[-1]))))
        else:
            absent.append(event)
    unclear += _hidden_objects(boxes, (*events, *unclear))
    clip = replace(
        video,
        frames=video.frames[indices],
        boxes=boxes,
        events=tuple(events),
        stamps=video.stamps[indices],
        unclear=tuple(unclear),
    )
    return VideoWindow(clip, tuple(absent))


def _hidden_objects(boxes: np.ndarray, known: Sequence[SimulatedEvent]) -> list[SimulatedEvent]:
    """Return what looks like an object that leaves or enters, apart from ``known`` events.

    Args:
        boxes: float32 [F, n, 4], NaN where hidden.
        known: Events of the window.
    """
    found = []
    are_known = {(event.kind, event.subject) for event in known}
    for index, is_visible in enumerate(~np.isnan(boxes[:, :, 0].T)):
        frames = np.flatnonzero(is_visible)
        if not len(frames):
            continue
        first, last = int(frames[0]), int(frames[-1])
        if last < len(is_visible) - 1 and (EventKind.LEAVES, index) not in are_known:
            found.append(SimulatedEvent(EventKind.LEAVES, index, None, (last, last)))
        if first > 0 and (EventKind.ENTERS, index) not in are_known:
            found.append(SimulatedEvent(EventKind.ENTERS, index, None, (first, first)))
    return found


def _is_recognizable(
    part: SimulatedEvent, event: SimulatedEvent, indices: np.ndarray, boxes: np.ndarray
) -> bool:
    """Whether the visible part of an event shows what kind of event it is."""
    first, last = part.span
    if part.kind is EventKind.ENTERS:
        return bool(indices[0] < event.span[0]) or _touches_border(boxes[first, part.subject])
    if part.kind is EventKind.LEAVES:
        return bool(indices[-1] > event.span[1]) or _touches_border(boxes[last, part.subject])
    if part.kind is EventKind.COLLIDES:
        hit = boxes[first : last + 1, part.other]
        centers = (hit[:, :2] + hit[:, 2:]) / 2
        centers = centers[~np.isnan(centers[:, 0])]
        return bool(len(centers)) and bool(np.ptp(centers, axis=0).max() > _PUSHED_ON)
    return True


def _touches_border(box: np.ndarray) -> bool:
    return bool(min(box[0], box[1]) < _EDGE or max(box[2], box[3]) > 1 - _EDGE)
