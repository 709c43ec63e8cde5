"""HOTA, IDF1 and id switches as pure functions over the frames of a sequence.

They follow TrackEval (github.com/JonathonLuiten/TrackEval), with which they are compared in the
tests. TrackEval itself is not a requirement: it installs opencv-python, which overwrites the files
of opencv-python-headless, and needs NumPy 2, where a native ROS 2 is compiled against NumPy 1.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from llava_st_ros.evaluation.streams.assignment import best_pairs
from llava_st_ros.records import Box

THRESHOLDS = np.arange(1, 20) * 0.05  # the IoU thresholds of HOTA: 0.05, 0.1, ..., 0.95
MATCH_IOU = 0.5  # of IDF1 and id switches
EPSILON = float(np.finfo(float).eps)

Id = TypeVar("Id", bound=Hashable)


@dataclass(frozen=True)
class TrackingFrame:
    """The boxes of one frame: expected ones by object, predicted ones by track."""

    expected: Mapping[str, Box]
    predicted: Mapping[int, Box]

    @cached_property
    def ious(self) -> np.ndarray:
        """The IoU of every expected (row) with every predicted box (column), float64 [N, M]."""
        rows = [[a.iou(b) for b in self.predicted.values()] for a in self.expected.values()]
        return np.array(rows, np.float64).reshape(len(self.expected), len(self.predicted))


@dataclass(frozen=True)
class Hota:
    """HOTA and its two parts, each in [0, 1]."""

    hota: float
    det_a: float
    ass_a: float


@dataclass(frozen=True)
class _Frame:
    """A frame with ids numbered from 0, in the order of their first appearance.

    Attributes:
        expected: int [N].
        predicted: int [M].
        ious: float64 [N, M].
    """

    expected: np.ndarray
    predicted: np.ndarray
    ious: np.ndarray


def hota(frames: Sequence[TrackingFrame]) -> Hota:
    """Return HOTA, DetA and AssA of a sequence (Luiten et al., IJCV 2021); 0 without matches.

    For each IoU threshold a of THRESHOLDS, with the matched pairs TP, the unmatched predictions FP
    and the unmatched expected boxes FN:

        DetA_a = |TP| / (|TP| + |FP| + |FN|)
        AssA_a = 1 / |TP| sum over pairs c in TP of TPA(c) / (TPA(c) + FPA(c) + FNA(c))
        HOTA_a = sqrt(DetA_a AssA_a)

    TPA(c) are the matched pairs with c's object and c's track, FPA(c) the other boxes of c's track
    and FNA(c) those of c's object. Each figure is the mean over the thresholds. Pairs are assigned
    by IoU times how well object and track are aligned over the complete sequence.

    >>> a, b = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
    >>> hota([TrackingFrame({"a": a, "b": b}, {7: a, 8: b})] * 2)
    Hota(hota=1.0, det_a=1.0, ass_a=1.0)
    >>> hota([TrackingFrame({"a": a}, {7: a}), TrackingFrame({"a": a}, {8: a})])  # another id
    Hota(hota=0.7071067811865476, det_a=1.0, ass_a=0.5)
    """
    numbered, objects, tracks = _numbered(frames)
    if not objects or not tracks:
        return Hota(0.0, 0.0, 0.0)
    alignment = np.zeros((objects, tracks))
    expected_boxes, predicted_boxes = np.zeros((objects, 1)), np.zeros((1, tracks))
    for frame in numbered:
        ious = frame.ious
        sums = ious.sum(0)[None, :] + ious.sum(1)[:, None] - ious
        shares = np.divide(ious, sums, out=np.zeros_like(ious), where=sums > EPSILON)
        alignment[frame.expected[:, None], frame.predicted[None, :]] += shares
        expected_boxes[frame.expected] += 1
        predicted_boxes[0, frame.predicted] += 1
    alignment /= expected_boxes + predicted_boxes - alignment

    matches = np.zeros((len(THRESHOLDS), objects, tracks))
    for frame in numbered:
        if not frame.ious.size:
            continue
        rows, columns = best_pairs(
            alignment[frame.expected[:, None], frame.predicted[None, :]] * frame.ious
        )
        is_match = frame.ious[rows, columns][None, :] >= THRESHOLDS[:, None] - EPSILON
        matches[:, frame.expected[rows], frame.predicted[columns]] += is_match

    found = matches.sum(axis=(1, 2))
    det_a = found / (expected_boxes.sum() + predicted_boxes.sum() - found)
    overlap = matches / np.maximum(1, expected_boxes + predicted_boxes - matches)
    ass_a = (matches * overlap).sum(axis=(1, 2)) / np.maximum(1, found)
    return Hota(float(np.sqrt(det_a * ass_a).mean()), float(det_a.mean()), float(ass_a.mean()))


def idf1(frames: Sequence[TrackingFrame]) -> float:
    """Return IDF1 of a sequence (Ristani et al., 2016); 0 if nothing is expected or predicted.

        IDF1 = 2 IDTP / (expected boxes + predicted boxes)

    IDTP is the number of boxes with an IoU of at least MATCH_IOU under the one-to-one assignment of
    objects and tracks, for the complete sequence, that has most of them.

    >>> a = Box(0, 0, 0.5, 1)
    >>> idf1([TrackingFrame({"a": a}, {7: a})] * 3 + [TrackingFrame({"a": a}, {8: a})])
    0.75
    """
    numbered, objects, tracks = _numbered(frames)
    if not objects or not tracks:
        return 0.0
    shared = np.zeros((objects, tracks))
    boxes = 0
    for frame in numbered:
        shared[frame.expected[:, None], frame.predicted[None, :]] += frame.ious >= MATCH_IOU
        boxes += len(frame.expected) + len(frame.predicted)
    rows, columns = best_pairs(shared)
    return float(2 * shared[rows, columns].sum() / boxes)


def id_switches(frames: Sequence[TrackingFrame]) -> int:
    """Return how often an object is matched to another track than before (CLEAR MOT).

    In each frame pairs with an IoU of at least MATCH_IOU are assigned: those of the previous frame
    first, then by IoU. An object that was lost in between is compared with its last track.

    >>> a = Box(0, 0, 0.5, 1)
    >>> found = lambda track: TrackingFrame({"a": a}, {track: a})
    >>> id_switches([found(7), TrackingFrame({"a": a}, {}), found(7), found(8), found(7)])
    2
    """
    numbered, objects, tracks = _numbered(frames)
    if not objects or not tracks:
        return 0
    last = np.full(objects, -1)  # the track with which the object was last matched
    previous = np.full(objects, -1)  # in the previous frame
    switches = 0
    for frame in numbered:
        if not frame.ious.size:
            continue
        continues = frame.predicted[None, :] == previous[frame.expected[:, None]]
        scores = 1000.0 * continues + frame.ious
        scores[frame.ious < MATCH_IOU - EPSILON] = 0.0
        rows, columns = best_pairs(scores)
        matched = scores[rows, columns] > EPSILON
        found, by = frame.expected[rows[matched]], frame.predicted[columns[matched]]
        switches += int(((last[found] >= 0) & (last[found] != by)).sum())
        last[found] = by
        previous[:] = -1
        previous[found] = by
    return switches


def correct_boxes(frames: Sequence[TrackingFrame]) -> tuple[int, int]:
    """Return how many expected boxes have a predicted box of IoU >= MATCH_IOU, and how many exist.

    Each predicted box counts for one object.

    >>> a, b = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
    >>> correct_boxes([TrackingFrame({"a": a, "b": b}, {7: a})])
    (1, 2)
    """
    correct = 0
    for frame in frames:
        if frame.expected and frame.predicted:
            matches = (frame.ious >= MATCH_IOU).astype(np.float64)
            rows, columns = best_pairs(matches)
            correct += int(matches[rows, columns].sum())
    return correct, sum(len(frame.expected) for frame in frames)


def tube_overlaps(frames: Sequence[TrackingFrame]) -> tuple[float, float, float]:
    """Return vIoU, tIoU and sIoU of sets of tubes; for one object, those of ``metrics``.

    With the sets P_t and G_t of predicted and expected boxes in frame t, and the assignment of
    greatest total IoU M_t:

        vIoU = sum over t and pairs of M_t of IoU / sum over t of max(|P_t|, |G_t|)
        tIoU = sum over t of min(|P_t|, |G_t|) / sum over t of max(|P_t|, |G_t|)
        sIoU = sum over t and pairs of M_t of IoU / sum over t of min(|P_t|, |G_t|)

    Each is 0 if its denominator is 0.

    >>> full, left = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)
    >>> expected, wrong = TrackingFrame({"a": full}, {}), TrackingFrame({}, {7: left})
    >>> tube_overlaps([expected, TrackingFrame({"a": full}, {7: left}), wrong, wrong])
    (0.125, 0.25, 0.5)
    """
    total, both, either = 0.0, 0, 0
    for frame in frames:
        sizes = len(frame.expected), len(frame.predicted)
        both, either = both + min(sizes), either + max(sizes)
        if min(sizes):
            rows, columns = best_pairs(frame.ious)
            total += float(frame.ious[rows, columns].sum())
    return (
        total / either if either else 0.0,
        both / either if either else 0.0,
        total / both if both else 0.0,
    )


def _numbered(frames: Sequence[TrackingFrame]) -> tuple[list[_Frame], int, int]:
    """Return the frames with ids numbered from 0, and the numbers of objects and tracks."""
    objects: dict[str, int] = {}
    tracks: dict[int, int] = {}
    numbered = [
        _Frame(
            _numbers(frame.expected, objects),
            _numbers(frame.predicted, tracks),
            frame.ious,
        )
        for frame in frames
    ]
    return numbered, len(objects), len(tracks)


def _numbers(boxes: Mapping[Id, Box], known: dict[Id, int]) -> np.ndarray:
    return np.array([known.setdefault(name, len(known)) for name in boxes], np.intp)
