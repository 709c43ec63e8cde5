"""HOTA, IDF1, id switches: worked out by hand, and as TrackEval computes them."""

from __future__ import annotations

import doctest
import math
from collections.abc import Sequence

import numpy as np
import pytest

from llava_st_ros.evaluation.streams import assignment, tracking_metrics
from llava_st_ros.evaluation.streams.tracking_metrics import (
    TrackingFrame,
    correct_boxes,
    hota,
    id_switches,
    idf1,
    tube_overlaps,
)
from llava_st_ros.records import Box

LEFT, RIGHT = Box(0.0, 0.0, 0.4, 0.4), Box(0.6, 0.0, 1.0, 0.4)
HALF = Box(0.0, 0.0, 0.2, 0.4)  # IoU 1/2 with LEFT


@pytest.mark.parametrize("module", [assignment, tracking_metrics])
def test_docstring_examples(module) -> None:
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted >= 1


def test_hota_of_a_localization_error_by_hand() -> None:
    # At the 10 thresholds up to 0.5 all is right; at the 9 above, nothing is matched.
    figures = hota([TrackingFrame({"a": LEFT}, {1: HALF})] * 4)
    assert figures.det_a == pytest.approx(10 / 19)
    assert figures.ass_a == pytest.approx(10 / 19)
    assert figures.hota == pytest.approx(10 / 19)


def test_hota_with_misses_false_boxes_and_a_new_id_by_hand() -> None:
    frames = [
        TrackingFrame({"a": LEFT}, {1: LEFT}),
        TrackingFrame({"a": LEFT}, {1: LEFT, 2: RIGHT}),  # a false box
        TrackingFrame({"a": LEFT}, {}),  # a miss
        TrackingFrame({"a": LEFT}, {3: LEFT}),  # another id
    ]
    figures = hota(frames)
    assert figures.det_a == pytest.approx(3 / 5)  # 3 matched, 1 false, 1 missed
    # Two pairs of (a, 1): 2 of 4 boxes of a or 1. One pair of (a, 3): 1 of 4.
    assert figures.ass_a == pytest.approx((2 / 4 + 2 / 4 + 1 / 4) / 3)
    assert figures.hota == pytest.approx(math.sqrt(3 / 5 * 5 / 12))
    assert idf1(frames) == pytest.approx(2 * 2 / (4 + 4))  # a is track 1: 2 boxes
    assert id_switches(frames) == 1


def test_crossed_ids_of_two_objects() -> None:
    frames = [
        TrackingFrame({"a": LEFT, "b": RIGHT}, {1: LEFT, 2: RIGHT}),
        TrackingFrame({"a": LEFT, "b": RIGHT}, {2: LEFT, 1: RIGHT}),
    ]
    assert id_switches(frames) == 2
    assert idf1(frames) == 0.5
    figures = hota(frames)
    assert figures.det_a == 1.0
    assert figures.ass_a == pytest.approx(1 / 3)  # each pair: 1 of 3 boxes of its object or track


def test_a_track_that_continues_is_preferred_to_one_that_fits_better() -> None:
    both = TrackingFrame({"a": LEFT}, {1: Box(0.0, 0.0, 0.3, 0.4), 2: LEFT})  # IoU 3/4 and 1
    first = TrackingFrame({"a": LEFT}, {1: LEFT})
    assert id_switches([first, both]) == 0
    assert id_switches([first, TrackingFrame({"a": LEFT}, {}), both]) == 0
    # In a frame with matches, of others, the track of an unmatched object ends.
    elsewhere = TrackingFrame({"a": LEFT, "b": RIGHT}, {3: RIGHT})
    assert id_switches([first, elsewhere, both]) == 1


def test_one_prediction_counts_for_one_object() -> None:
    frame = TrackingFrame({"a": LEFT, "b": LEFT}, {1: LEFT})
    assert correct_boxes([frame]) == (1, 2)
    assert tube_overlaps([frame]) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [TrackingFrame({}, {})],
        [TrackingFrame({"a": LEFT}, {})],
        [TrackingFrame({}, {1: LEFT})],
    ],
)
def test_nothing_to_match_gives_zeros(frames: list[TrackingFrame]) -> None:
    assert hota(frames) == tracking_metrics.Hota(0.0, 0.0, 0.0)
    assert (idf1(frames), id_switches(frames)) == (0.0, 0)
    assert tube_overlaps(frames) == (0.0, 0.0, 0.0)


def random_frames(generator: np.random.Generator) -> list[TrackingFrame]:
    """Return a sequence of up to four drifting objects, with misses, false boxes and new ids."""

    def random_box() -> Box:
        x, y = generator.random(2) * 0.7
        return Box(x, y, x + 0.1 + generator.random() * 0.2, y + 0.1 + generator.random() * 0.2)

    def moved(box: Box, spread: float) -> Box:
        # On a grid, so that IoUs meet thresholds exactly and assignments are often ambiguous.
        x1, y1, x2, y2 = (
            round(v + generator.normal(0, spread), 2) for v in (box.x1, box.y1, box.x2, box.y2)
        )
        return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))

    objects = [random_box() for _ in range(generator.integers(0, 5))]
    ids = list(range(len(objects)))
    frames = []
    for _ in range(generator.integers(0, 25)):
        objects = [moved(box, 0.01) for box in objects]
        expected, predicted = {}, {}
        for number, box in enumerate(objects):
            if generator.random() < 0.1:
                ids[number] = int(generator.integers(0, 8))
            if generator.random() < 0.8:
                expected[str(number)] = box
            if generator.random() < 0.8:
                predicted[ids[number]] = moved(box, 0.03)
        if generator.random() < 0.2:
            predicted[int(generator.integers(20, 23))] = random_box()
        frames.append(TrackingFrame(expected, predicted))
    return frames


def as_trackeval(frames: Sequence[TrackingFrame]) -> dict[str, object]:
    """Return a sequence as TrackEval's metric classes expect it: ids are indices, in any order."""
    objects = sorted({name for frame in frames for name in frame.expected})
    tracks = sorted({name for frame in frames for name in frame.predicted})
    return {
        "num_timesteps": len(frames),
        "num_gt_ids": len(objects),
        "num_tracker_ids": len(tracks),
        "num_gt_dets": sum(len(frame.expected) for frame in frames),
        "num_tracker_dets": sum(len(frame.predicted) for frame in frames),
        "gt_ids": [np.array([objects.index(n) for n in f.expected], int) for f in frames],
        "tracker_ids": [np.array([tracks.index(n) for n in f.predicted], int) for f in frames],
        "similarity_scores": [frame.ious for frame in frames],
    }


def test_random_sequences_agree_with_trackeval() -> None:
    trackeval = pytest.importorskip(
        "trackeval", reason="requirements/trackeval.txt is not installed"
    )
    generator = np.random.default_rng(5)
    options = {"PRINT_CONFIG": False}
    switches = 0
    for _ in range(60):
        frames = random_frames(generator)
        data = as_trackeval(frames)
        expected = trackeval.metrics.HOTA().eval_sequence(data)
        figures = hota(frames)
        assert figures.hota == pytest.approx(expected["HOTA"].mean(), abs=1e-9)
        assert figures.det_a == pytest.approx(expected["DetA"].mean(), abs=1e-9)
        assert figures.ass_a == pytest.approx(expected["AssA"].mean(), abs=1e-9)
        identity = trackeval.metrics.Identity(options).eval_sequence(data)
        assert idf1(frames) == pytest.approx(identity["IDF1"], abs=1e-9)
        clear = trackeval.metrics.CLEAR(options).eval_sequence(data)
        assert id_switches(frames) == clear["IDSW"]
        switches += id_switches(frames)
    assert switches > 20
