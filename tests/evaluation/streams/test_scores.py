"""Scores of a standing query on a stream, each worked out by hand.

The camera has 10 frames a second for ten seconds; the ball rolls from second 4 to second 6.
"""

from __future__ import annotations

import doctest
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.evaluation.metric_kinds import QuantileMetric, TwoSampleMetric
from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.evaluation.results import (
    RunResults,
    read_results,
    rows_of,
    write_results,
)
from llava_st_ros.evaluation.streams import claims, timeliness_f1
from llava_st_ros.evaluation.streams.scores import STREAM_METRICS, StreamScores, score_stream
from llava_st_ros.records import (
    NANOSECONDS,
    Answer,
    Box,
    BoxTube,
    Event,
    EventState,
    Grounding,
    Query,
    QueryFailure,
    Span,
    Task,
    Tick,
    Track,
    TrackState,
)

TOPIC, CAMERA = "/camera", "camera"
STAMPS = [i * NANOSECONDS // 10 for i in range(101)]
A, B = Box(0.0, 0.0, 0.4, 0.4), Box(0.6, 0.6, 1.0, 1.0)
HALF = Box(0.0, 0.0, 0.2, 0.4)  # IoU 1/2 with A
GROUNDED, PROPAGATED, LOST = TrackState.GROUNDED, TrackState.PROPAGATED, TrackState.LOST


def ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)


def annotated(
    *spans: tuple[float, float],
    task: Task = Task.STVG,
    boxes: Sequence[Mapping[int, Box]] = (dict.fromkeys(STAMPS, A),),
) -> GroundTruth:
    """Return annotations with one query "q" about an object for each of ``boxes``."""
    objects = tuple(AnnotatedObject(str(i), "ball", TOPIC, b) for i, b in enumerate(boxes))
    names = tuple(item.id for item in objects) if spans else ()
    times = tuple(Span(ns(start), ns(end)) for start, end in spans)
    query = AnnotatedQuery("q", "the ball rolls", task, TOPIC, times, names)
    return GroundTruth((AnnotatedCamera(TOPIC, 100, 50),), objects, (query,))


ROLLS = annotated((4, 6))
VISIBLE = annotated((0, 10), task=Task.REC)
NEVER = annotated()


def track(
    boxes: Mapping[float, Box],
    track_id: int = 1,
    state: TrackState = GROUNDED,
    camera: str = CAMERA,
) -> Track:
    tube = BoxTube(tuple(ns(second) for second in boxes), tuple(boxes.values()))
    return Track("q", track_id, "ball", tube, state, 0.5, camera, "", 100, 50)


def steady(start: float, end: float, box: Box = A) -> dict[float, Box]:
    """Return a box for every tenth of a second, both ends included."""
    return {i / 10: box for i in range(round(start * 10), round(end * 10) + 1)}


def event(
    start: float, end: float, state: EventState = EventState.CONFIRMED, event_id: int = 1
) -> Event:
    span = Span(ns(start), ns(end))
    return Event("q", event_id, "the ball rolls", span, state, 0.5, CAMERA, "")


def answer(
    window: tuple[float, float],
    box: Box | None = None,
    *,
    task: Task = Task.STVG,
    problems: tuple[str, ...] = (),
) -> Grounding:
    """Return an answer about a window: a box on its newest frame, or "no match"."""
    stamps = (ns(window[0]), ns(window[1]))
    tube = BoxTube() if box is None else BoxTube(stamps[1:], (box,))
    span = None if box is None else Span(*stamps)
    content = Answer(task, no_match=box is None, problems=problems)
    query = Query("q", "the ball rolls", task)
    return Grounding(query, content, stamps, span, tube, 0.5, CAMERA, "", 100, 50)


def published(
    at: float,
    *,
    tracks: Sequence[Track] = (),
    events: Sequence[Event] = (),
    answers: Sequence[Grounding] = (),
    failures: Sequence[QueryFailure] = (),
    stream: int = 0,
) -> PublishedTick:
    tick = Tick(tuple(answers), tuple(tracks), tuple(events), tuple(failures))
    return PublishedTick(ns(at), tick, stream)


def score(
    truth: GroundTruth, *ticks: PublishedTick, allowance: float = 0.0, camera: str | None = None
) -> StreamScores:
    return score_stream(
        ticks, truth.queries[0], truth, {0: STAMPS}, camera=camera, allowance=ns(allowance)
    )


@pytest.mark.parametrize("module", [claims, timeliness_f1])
def test_docstring_examples(module) -> None:
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted >= 1


def test_what_is_published_with_each_frame_is_perfect_in_the_end_and_live() -> None:
    ticks = [published(s, tracks=[track(steady(4, s))]) for s in steady(4, 6)]
    scores = score(ROLLS, *ticks, published(6.1))
    for variant in ("final", "live"):
        for key in ("viou", "tiou", "siou", "hota", "deta", "assa", "idf1"):
            assert scores.values[f"{variant}_{key}"] == pytest.approx(1.0), (variant, key)
        assert scores.counts[f"{variant}_id_switches"] == (0, pytest.approx(2.1 / 60))
    assert scores.counts["live_correct"] == (21, 21)
    assert scores.predicted.spans == ()
    assert scores.predicted.boxes == scores.expected.boxes
    assert list(scores.expected.boxes) == STAMPS[40:61]


def test_a_track_that_is_right_but_published_too_late() -> None:
    scores = score(ROLLS, published(9, tracks=[track(steady(4, 6))]), published(9.5))
    assert scores.values["final_viou"] == 1.0
    assert scores.values["live_viou"] == 0.0
    assert scores.values["live_tiou"] == 0.0  # live in frames 9.0 to 9.4 only
    assert scores.values["live_deta"] == 0.0
    assert scores.counts["live_correct"] == (0, 21)
    # Published within the allowance, it is live from 4.0 to 4.4.
    allowed = score(
        ROLLS, published(9, tracks=[track(steady(4, 6))]), published(9.5), allowance=5.0
    )
    assert allowed.counts["live_correct"] == (5, 21)
    assert allowed.values["live_viou"] == pytest.approx(5 / 21)


def test_temporal_and_spatial_errors_both_lower_viou() -> None:
    late = score(ROLLS, published(7, tracks=[track(steady(5, 7, HALF))]), published(7.1))
    # Frames 40..60 and 50..70: 11 of 31 in both, each with an IoU of 1/2.
    assert late.values["final_tiou"] == pytest.approx(11 / 31)
    assert late.values["final_siou"] == pytest.approx(0.5)
    assert late.values["final_viou"] == pytest.approx(5.5 / 31)


def test_a_second_track_elsewhere_in_time_lowers_the_scores() -> None:
    other = published(9, tracks=[track(steady(8, 9), track_id=2)])
    scores = score(ROLLS, published(6, tracks=[track(steady(4, 6))]), published(7), other)
    assert scores.values["final_viou"] == pytest.approx(21 / 32)  # 11 frames too many
    assert scores.values["final_deta"] == pytest.approx(21 / 32)
    assert scores.values["final_assa"] == pytest.approx(1.0)


def test_of_two_tracks_at_one_time_the_most_recently_changed_one_counts_for_one_object() -> None:
    right, wrong = track(steady(4, 6)), track(steady(4, 6, B), track_id=2)
    scores = score(ROLLS, published(6, tracks=[wrong]), published(6.1, tracks=[wrong, right]))
    assert scores.values["final_viou"] == 1.0
    assert scores.values["final_deta"] == pytest.approx(21 / 42)  # tracking counts all tracks


def test_frames_with_a_hidden_object_are_ignored() -> None:
    seen = {s: A for s in STAMPS if not ns(4.5) <= s < ns(5.5)}
    truth = annotated((4, 6), boxes=[seen])
    ticks = [published(s, tracks=[track(steady(4, s))]) for s in steady(4, 6)]
    scores = score(truth, *ticks, published(6.1))
    assert scores.values["final_viou"] == scores.values["live_viou"] == 1.0
    assert scores.values["final_hota"] == pytest.approx(1.0)
    assert scores.counts["live_correct"] == (11, 11)


def test_propagated_boxes_are_live_but_not_final() -> None:
    first = track({4.0: A})
    ticks = [published(4.0, tracks=[first])]
    ticks += [
        published(
            s,
            tracks=[
                replace(track({4.0: A, s: A}, state=PROPAGATED), propagated_from=4 * NANOSECONDS)
            ],
        )
        for s in list(steady(4.1, 6))
    ]
    scores = score(ROLLS, *ticks, published(6.1))
    assert scores.counts["live_correct"] == (21, 21)
    assert scores.values["final_tiou"] == pytest.approx(1 / 21)


def test_a_lost_track_is_not_live() -> None:
    lost = published(5, tracks=[track(steady(4, 5), state=LOST)])
    scores = score(ROLLS, published(4, tracks=[track({4: A})]), lost)
    assert scores.counts["live_correct"] == (10, 21)  # 4.0 to 4.9
    assert scores.counts["silent_ticks"] == (0, 0)


def test_of_two_live_tracks_the_newest_box_counts_for_one_object() -> None:
    old, new = track({3: B}, 2), track({4: A}, 1)
    for tracks in ((old, new), (new, old)):
        scores = score(ROLLS, published(4, tracks=tracks), published(6.1))
        assert scores.values["live_viou"] == 1.0
        assert scores.values["live_deta"] == pytest.approx(21 / 42)
    propagated = track({4: B}, 3, PROPAGATED)
    scores = score(ROLLS, published(4, tracks=[new, propagated]), published(6.1))
    assert scores.values["live_viou"] == 1.0  # of the same frame: the one from the model


def test_an_id_switch_while_the_object_is_visible() -> None:
    ticks = [published(0, tracks=[track({0: A})]), published(5, tracks=[track({5: A}, 2)])]
    scores = score(VISIBLE, *ticks)
    assert scores.counts["live_id_switches"] == (1, pytest.approx(10 / 60))
    assert scores.values["live_deta"] == pytest.approx(1.0)
    # 50 frames with the first track, 51 with the second, of 101.
    assert scores.values["live_assa"] == pytest.approx((50**2 + 51**2) / 101**2)
    assert scores.values["live_idf1"] == pytest.approx(2 * 51 / 202)


def test_ids_of_a_followed_object() -> None:
    once, again = track(steady(0, 4)), track(steady(5, 10), 2)
    ticks = published(4, tracks=[once]), published(10, tracks=[again])
    assert score(VISIBLE, *ticks).counts["track_ids"] == (2, 1)
    assert score(VISIBLE, ticks[0]).counts["track_ids"] == (1, 1)
    gone = annotated((0, 4), task=Task.REC)  # the second track has no frame with the object
    assert score(gone, *ticks).counts["track_ids"] == (1, 1)
    assert "track_ids" not in score(gone, ticks[1]).counts
    assert "track_ids" not in score(ROLLS, *ticks).counts


def test_two_objects_need_two_tracks() -> None:
    truth = annotated((4, 6), boxes=[dict.fromkeys(STAMPS, A), dict.fromkeys(STAMPS, B)])
    one = track(steady(4, 6))
    both = score(truth, published(6, tracks=[one, track(steady(4, 6, B), 2)]), published(6.1))
    assert both.values["final_viou"] == both.values["final_hota"] == pytest.approx(1.0)
    assert both.counts["live_correct"] == (2, 42)  # both, at the last frame
    alone = score(truth, published(6, tracks=[one]), published(6.1))
    assert alone.values["final_viou"] == alone.values["final_tiou"] == pytest.approx(0.5)
    assert alone.values["final_siou"] == 1.0
    assert alone.values["final_deta"] == pytest.approx(0.5)


def test_while_one_of_two_objects_is_hidden_its_box_is_ignored() -> None:
    hidden = {s: B for s in STAMPS if s < ns(5)}
    truth = annotated((4, 6), boxes=[dict.fromkeys(STAMPS, A), hidden])
    tracks = [track(steady(4, 6)), track(steady(4, 6, B), 2)]
    scores = score(truth, published(6, tracks=tracks), published(6.1))
    assert scores.values["final_viou"] == scores.values["final_hota"] == pytest.approx(1.0)


def test_while_two_objects_are_hidden_two_boxes_are_ignored() -> None:
    truth = annotated((4, 6), boxes=[{s: A for s in STAMPS if s < ns(5)}] * 2)
    tracks = [track(steady(4, 6)), track(steady(4, 6), 2)]
    scores = score(truth, published(6, tracks=tracks), published(6.1))
    assert scores.values["final_viou"] == scores.values["final_hota"] == pytest.approx(1.0)


def test_a_late_detection() -> None:
    begun = published(5.5, events=[event(4.2, 5.3)])
    ended = published(6.5, events=[event(4.2, 6.0, EventState.ENDED)])
    scores = score(ROLLS, begun, ended)
    assert scores.samples["detection_delay"] == (pytest.approx(1.5),)
    assert scores.counts["missed_events"] == (0, 1)
    assert scores.counts["false_events"] == (0, pytest.approx(8 / 3600))
    expected = 2 * math.exp(-(0.5**2) / (2 * 0.74**2))  # half a second behind the window
    assert scores.counts["timeliness_f1_1"] == (pytest.approx(expected), 2)
    assert scores.predicted.spans == ((ns(4.2), ns(6.0)),)


def test_a_false_event_between_spans_and_a_missed_one() -> None:
    truth = annotated((4, 6), (9.5, 10))
    false = [published(s, events=[event(1, s)]) for s in (1.5, 2, 2.5)]  # one event
    scores = score(truth, *false, published(4.5, events=[event(4, 4.4, event_id=2)]))
    assert scores.counts["false_events"] == (1, pytest.approx(7.5 / 3600))  # hours outside spans
    assert scores.counts["missed_events"] == (1, 2)
    assert scores.samples["detection_delay"] == (pytest.approx(0.5),)
    # One slot matched with T = 1, one missed. The false event at 1.5 s is 1.5 s before the window
    # of the slot at 4 s and clears the threshold, but the slot takes one response only.
    early = math.exp(-(1.5**2) / (2 * 1.48**2))
    assert early > 0.05
    assert scores.counts["timeliness_f1_1"] == (pytest.approx(2 * early), 2 + 1 + 1)
    assert scores.counts["timeliness_f1_5"] == (pytest.approx(2), 2 + 0 + 1)


def test_only_confirmed_events_are_claims_and_provisional_ones_are_counted_apart() -> None:
    provisional, confirmed = EventState.PROVISIONAL, EventState.CONFIRMED
    ended, retracted = EventState.ENDED, EventState.RETRACTED
    scores = score(
        ROLLS,
        # Right: provisional at 4.5 s, confirmed at 5 s, ended.
        published(4.5, events=[event(4, 4.4, provisional, 1)]),
        published(5.0, events=[event(4, 4.9, confirmed, 1)]),
        published(6.5, events=[event(4, 6.0, ended, 1)]),
        # False: one is only provisional, one is confirmed and retracted, one ends.
        published(7.0, events=[event(6.5, 6.9, provisional, 2)]),
        published(7.5, events=[event(6.5, 6.9, retracted, 2), event(7, 7.4, confirmed, 3)]),
        published(8.0, events=[event(7, 7.4, retracted, 3), event(7.6, 8, provisional, 4)]),
        published(8.5, events=[event(7.6, 8.4, confirmed, 4)]),
        published(9.0, events=[event(7.6, 8.8, ended, 4)]),
    )
    hours = pytest.approx(8 / 3600)
    assert scores.counts["false_confirmed"] == (2, hours)
    assert scores.counts["false_provisional"] == (3, hours)
    assert scores.counts["retracted"] == (2, 4)
    assert scores.counts["contradicted"] == (1, 3)
    assert scores.samples["detection_delay"] == (pytest.approx(1.0),)
    assert "false_confirmed" not in score(VISIBLE).counts


def test_the_latency_of_answers_is_from_the_newest_frame_of_their_window() -> None:
    ticks = [published(s + wait, answers=[answer((s - 2, s))]) for s, wait in ((3, 0.5), (5, 1.25))]
    assert score(ROLLS, *ticks).samples["stamp_to_answer"] == pytest.approx((0.5, 1.25))
    at_once = [published(s, answers=[answer((s - 2, s))]) for s in (3, 5)]
    assert "stamp_to_answer" not in score(ROLLS, *at_once).samples


def test_an_unfinished_event_at_the_end_of_the_bag() -> None:
    truth = annotated((8, 12))  # the bag ends at 10 s
    ticks = [published(9, events=[event(8, 9)]), published(10, events=[event(8, 10)])]
    scores = score(truth, *ticks)
    assert scores.samples["detection_delay"] == (pytest.approx(1.0),)
    assert scores.counts["missed_events"] == (0, 1)
    assert scores.counts["false_events"] == (0, pytest.approx(8 / 3600))
    assert scores.predicted.spans == ((ns(8), ns(10)),)
    assert scores.problems == ("never answered",)


def test_an_event_that_began_before_the_bag_counts_from_its_first_frame() -> None:
    scores = score(annotated((-5, 3)), published(1, events=[event(0, 1)]))
    assert scores.samples["detection_delay"] == (pytest.approx(1.0),)


def test_claims_that_touch_a_span_count_and_lost_tracks_do_not() -> None:
    assert score(ROLLS, published(7, events=[event(6, 7)])).counts["missed_events"] == (0, 1)
    assert score(ROLLS, published(4, events=[event(3, 4)])).counts["missed_events"] == (0, 1)
    assert score(ROLLS, published(7, events=[event(6.1, 7)])).counts["missed_events"] == (1, 1)
    lost = published(5, tracks=[track({5: A}, state=LOST)])
    assert score(VISIBLE, lost).counts["missed_events"] == (1, 1)
    assert score(annotated(task=Task.REC), lost).counts["false_events"][0] == 0


def test_the_time_outside_spans_is_that_outside_of_all() -> None:
    truth = annotated((-9, -3), (1, 5), (2, 3), (9, 20))
    scores = score(truth, published(4, events=[event(4, 4)]))
    assert scores.counts["false_events"] == (0, pytest.approx(5 / 3600))  # 0 to 1, 5 to 9
    assert scores.counts["missed_events"] == (2, 3)
    assert scores.counts["silent_ticks"] == (0, 0)


def test_repeated_stamps_count_once() -> None:
    query = VISIBLE.queries[0]
    ticks = [published(0, tracks=[track({0: A})])]
    scores = score_stream(ticks, query, VISIBLE, {0: [*reversed(STAMPS), *STAMPS]})
    assert scores.counts["live_correct"] == (101, 101)


def test_spans_outside_of_the_footage_are_reported_and_not_scored() -> None:
    scores = score(annotated((20, 30)))
    assert scores.values == {}
    assert "missed_events" not in scores.counts
    assert "1 of 1 annotated spans contain no frame" in scores.problems[-1]


def test_boxes_that_are_on_no_frame_are_reported() -> None:
    scores = score(annotated((4, 6), boxes=[{1: A}]))
    assert scores.values == {}
    assert scores.problems[-1] == "no annotated box has the stamp of a frame within a span"


def test_a_query_that_never_matches() -> None:
    quiet = [published(second, answers=[answer((0, second))]) for second in range(1, 5)]
    scores = score(NEVER, *quiet)
    assert scores.values == {}
    assert scores.counts["false_events_no_match"] == (0, pytest.approx(10 / 3600))
    assert scores.counts["silent_ticks"] == (4, 4)
    assert scores.counts["changed_answers"] == (0, pytest.approx(3 / 60))
    assert "missed_events" not in scores.counts and "timeliness_f1_1" not in scores.counts
    assert scores.as_case("1", "bag", NEVER.queries[0]).task == "no_match"
    loud = score(NEVER, *quiet, published(5, events=[event(4, 5)], tracks=[track({5: A})]))
    assert loud.counts["false_events_no_match"] == (1, pytest.approx(10 / 3600))
    assert loud.counts["silent_ticks"] == (4, 5)


def test_a_track_of_an_image_query_that_never_matches_is_a_false_event() -> None:
    truth = annotated(task=Task.REC)
    ticks = [published(s, tracks=[track({s: A})]) for s in (1, 2, 3)]
    scores = score(truth, *ticks, published(4, tracks=[track({4: A}, 2)]))
    assert scores.counts["false_events"] == (2, pytest.approx(10 / 3600))


def test_what_is_published_late_but_right_does_not_break_the_silence() -> None:
    late = published(7, events=[event(4, 6)], tracks=[track(steady(4, 6))])
    false = published(8, events=[event(7, 8, event_id=2)])
    assert score(ROLLS, published(1), late, false).counts["silent_ticks"] == (2, 3)


def test_flicker_on_a_static_scene() -> None:
    boxes = [A, None, A, None, A]
    ticks = [published(s, answers=[answer((0, s), b)]) for s, b in enumerate(boxes, 1)]
    assert score(NEVER, *ticks).counts["changed_answers"] == (4, pytest.approx(4 / 60))


def test_a_jump_of_the_box_and_a_new_track_are_changes() -> None:
    ticks = [
        published(1, answers=[answer((0, 1), A)], tracks=[track({1: A})]),
        published(2, answers=[answer((1, 2), HALF)], tracks=[track({2: HALF})]),  # IoU 1/2: none
        published(3, answers=[answer((2, 3), B)], tracks=[track({3: B})]),
        published(4, answers=[answer((3, 4), B)], tracks=[track({4: B}, 2)]),
    ]
    assert score(NEVER, *ticks).counts["changed_answers"] == (2, pytest.approx(3 / 60))


def test_two_answers_about_the_same_frame_are_no_change() -> None:
    ticks = [published(2, answers=[answer((1, 2), A), answer((0, 2))])]
    assert score(NEVER, *ticks).counts["changed_answers"] == (0, 0)


def test_answers_while_something_happens_or_moves_are_not_on_a_static_scene() -> None:
    pair = [published(s, answers=[answer((s - 1, s), b)]) for s, b in ((2, None), (3, A))]
    assert score(ROLLS, *pair).counts["changed_answers"] == (1, pytest.approx(1 / 60))
    # The second window contains the start of the span, or the first one its end.
    for last in (4.0, 4.5):
        windows = ((3.5, None), (last, A))
        starts = [published(s, answers=[answer((s - 1, s), b)]) for s, b in windows]
        assert score(ROLLS, *starts).counts["changed_answers"] == (0, 0)
    ends = [published(s, answers=[answer((s - 1, s), b)]) for s, b in ((6.5, A), (7.5, None))]
    assert score(ROLLS, *ends).counts["changed_answers"] == (0, 0)
    moving = annotated((4, 6), boxes=[{s: A if s < ns(2.5) else HALF for s in STAMPS}])
    assert score(moving, *pair).counts["changed_answers"] == (0, 0)
    vanishing = annotated((4, 6), boxes=[{s: A for s in STAMPS if s < ns(2.5)}])
    assert score(vanishing, *pair).counts["changed_answers"] == (0, 0)


def test_a_task_without_boxes_is_scored_by_its_events() -> None:
    truth = annotated((4, 6), task=Task.TVG, boxes=[])
    begun = published(5, events=[event(4, 5)])
    ended = published(7, events=[event(4, 5.9, EventState.ENDED)])
    scores = score(truth, begun, ended)
    assert scores.values["final_tiou"] == pytest.approx(20 / 21)
    # Known to be in progress from 5.0 to 6.9: 11 frames of the span, 9 too many, 10 too late.
    assert scores.values["live_tiou"] == pytest.approx(11 / 30)
    assert set(scores.values) == {"final_tiou", "live_tiou"}


def test_of_a_task_that_describes_only_the_answers_are_counted() -> None:
    scores = score(annotated((4, 6), task=Task.DVC), published(5, answers=[answer((0, 5))]))
    assert (scores.values, scores.samples) == ({}, {})
    assert set(scores.counts) == {"changed_answers", "unparsed", "failed"}
    assert scores.problems == ("a DVC query finds neither tracks nor events to score",)


def test_a_model_that_answers_nonsense_scores_zero_and_is_counted() -> None:
    broken = answer((0, 5), problems=("no span",))
    failure = QueryFailure("q", CAMERA, "out of memory", 1, ns(7))
    scores = score(ROLLS, published(5, answers=[broken]), published(6, failures=[failure]))
    assert set(scores.values.values()) == {0.0}
    assert scores.counts["unparsed"] == (1, 1)
    assert scores.counts["failed"] == (1, 2)
    assert scores.counts["missed_events"] == (1, 1)
    assert scores.samples["detection_delay"] == ()
    assert scores.problems == (
        "1 of 2 evaluations failed",
        "out of memory (1 times)",
        "no span (1 times)",
    )


@pytest.mark.parametrize("stamps", [{}, {0: []}, {0: [ns(5)]}])
@pytest.mark.parametrize("truth", [ROLLS, VISIBLE, NEVER])
def test_an_empty_bag_or_one_of_one_frame(truth: GroundTruth, stamps: dict[int, list[int]]) -> None:
    scores = score_stream([], truth.queries[0], truth, stamps)
    case = scores.as_case("1", "bag", truth.queries[0])
    rows = rows_of("stream", STREAM_METRICS, [case])
    assert {row.metric for row in rows} >= {"answers changed", "false events"}
    assert all(value == 0.0 for value in scores.values.values())
    assert all(above in (0, 1) for above, _ in scores.counts.values())


def test_streams_of_a_camera_are_scored_apart() -> None:
    """After a jump of the clock the same stamps come again: the ball rolls in both."""
    found = published(6, tracks=[track(steady(4, 6))], events=[event(4, 6)])
    scores = score_stream(
        [found, published(7), published(3, stream=1)],
        ROLLS.queries[0],
        ROLLS,
        {0: STAMPS, 1: STAMPS},
    )
    assert scores.values["final_viou"] == pytest.approx(0.5)
    assert scores.counts["missed_events"] == (1, 2)
    assert scores.counts["live_correct"] == (1, 42)
    assert scores.counts["silent_ticks"] == (2, 2)
    # Ticks of other cameras' streams do not count.
    alone = score_stream([found], ROLLS.queries[0], ROLLS, {1: STAMPS})
    assert alone.values["final_viou"] == 0.0


def test_what_is_published_about_another_camera_does_not_count() -> None:
    other = published(6, tracks=[track(steady(4, 6), camera="rear")])
    here = published(6, tracks=[track(steady(4, 6), camera="rear"), track(steady(4, 5), 2)])
    assert score(ROLLS, other, camera=CAMERA).values["final_viou"] == 0.0
    assert score(ROLLS, here, camera=CAMERA).values["final_tiou"] == pytest.approx(11 / 21)
    with pytest.raises(ValueError, match="camera, rear"):
        score(ROLLS, here)


def test_ticks_are_ordered_by_time_and_ties_by_publication() -> None:
    ticks = [
        published(6, tracks=[track({6: A})]),
        published(6),
        published(4, tracks=[track({4: A})]),
    ]
    assert score(ROLLS, *ticks).counts["live_correct"] == (20, 21)


def test_figures_of_several_cases() -> None:
    late = score(ROLLS, published(5, events=[event(4, 5)]))
    missed = score(ROLLS, published(2, events=[event(1, 2)]))
    cases = [s.as_case(str(i), "bag", ROLLS.queries[0]) for i, s in enumerate((late, missed))]
    rows = {row.metric: row for row in rows_of("stream", STREAM_METRICS, cases)}
    assert rows["detection delay p50"].value == rows["detection delay p90"].value == 1.0
    assert rows["missed events"].value == 0.5
    assert rows["false events"].value == pytest.approx(3600 / 16)
    assert rows["false events"].lower_is_better
    assert "false events, no match" not in rows


def test_metric_names_and_keys_are_unique() -> None:
    assert len({metric.name for metric in STREAM_METRICS}) == len(STREAM_METRICS)
    # Several figures are made of one set of samples.
    shared = QuantileMetric, TwoSampleMetric
    keys = [metric.key for metric in STREAM_METRICS if not isinstance(metric, shared)]
    assert len(set(keys)) == len(keys)


def random_ticks(generator: random.Random) -> list[PublishedTick]:
    """Return arbitrary publications: late, out of order, overlapping, of boxes without area."""

    def second() -> float:
        return generator.randrange(0, 110) / 10

    def box() -> Box:
        x1, y1, x2, y2 = (generator.choice((0.0, 0.2, 0.4, 0.6, 1.0)) for _ in range(4))
        return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))

    def boxes() -> dict[float, Box]:
        return {s: box() for s in sorted({second() for _ in range(generator.randrange(1, 6))})}

    def some_event() -> Event:
        start, end = sorted((second(), second()))
        return event(start, end, generator.choice(list(EventState)), generator.randrange(3))

    def some_answer() -> Grounding:
        window = sorted((second(), second()))
        return answer((window[0], window[1]), generator.choice((None, box())))

    ticks = []
    for _ in range(generator.randrange(0, 30)):
        tracks = [
            track(boxes(), number, generator.choice(list(TrackState)))
            for number in range(generator.randrange(4))
        ]
        events = [some_event() for _ in range(generator.randrange(2))]
        answers = [some_answer() for _ in range(generator.randrange(2))]
        ticks.append(published(second(), tracks=tracks, events=events, answers=answers))
    return ticks


def shifted(item: PublishedTick, by: int) -> PublishedTick:
    """Return a tick as if the clock had another origin."""

    def tube(old: BoxTube) -> BoxTube:
        return BoxTube(tuple(stamp + by for stamp in old.stamps), old.boxes)

    def span(old: Span) -> Span:
        return Span(old.start + by, old.end + by)

    tick = Tick(
        tuple(
            replace(
                g,
                window=tuple(stamp + by for stamp in g.window),
                span=span(g.span) if g.span else None,
                tube=tube(g.tube),
            )
            for g in item.tick.groundings
        ),
        tuple(replace(t, tube=tube(t.tube)) for t in item.tick.tracks),
        tuple(replace(e, span=span(e.span)) for e in item.tick.events),
    )
    return PublishedTick(item.at + by, tick, item.stream)


@pytest.mark.parametrize("task", [Task.STVG, Task.REC, Task.TVG])
def test_any_publications_give_scores_in_range_that_do_not_depend_on_the_clock(task: Task) -> None:
    generator = random.Random(task.value)
    by = 1_700_000_000 * NANOSECONDS
    moving = {
        s: Box(0.0, 0.0, 0.4, 0.2 + 0.6 * s / ns(10)) for s in STAMPS if s % ns(1) or s < ns(3)
    }
    truth = annotated((1, 3), (4, 6), (9, 12), task=task, boxes=[moving, dict.fromkeys(STAMPS, B)])
    query = truth.queries[0]
    later = GroundTruth(
        truth.cameras,
        tuple(replace(o, boxes={s + by: b for s, b in o.boxes.items()}) for o in truth.objects),
        (replace(query, spans=tuple(Span(s.start + by, s.end + by) for s in query.spans)),),
    )
    for _ in range(40):
        ticks = random_ticks(generator)
        scores = score_stream(ticks, query, truth, {0: STAMPS})
        assert all(0.0 <= value <= 1.0 + 1e-9 for value in scores.values.values())
        assert len(scores.values) == (2 if task is Task.TVG else 14)
        for key in ("live_correct", "missed_events", "silent_ticks", "timeliness_f1_5"):
            above, below = scores.counts.get(key, (0, 0))
            assert 0 <= above <= below, key
        same = score_stream(
            [shifted(tick, by) for tick in ticks],
            later.queries[0],
            later,
            {0: [stamp + by for stamp in STAMPS]},
        )
        assert same.values == pytest.approx(scores.values)
        assert same.samples["detection_delay"] == pytest.approx(scores.samples["detection_delay"])
        for key, counts in scores.counts.items():
            assert same.counts[key] == pytest.approx(counts), key


def test_cases_and_figures_are_read_from_a_file_as_they_were(tmp_path: Path) -> None:
    ticks = [published(s, tracks=[track(steady(4, s))]) for s in steady(4, 6)]
    answered = [published(7, answers=[answer((6, 7), problems=("no span",))])]
    found = score(ROLLS, *ticks, published(6.1, events=[event(4, 6)]), *answered)
    nothing = score(NEVER)
    cases = (
        found.as_case("1", "bag", ROLLS.queries[0]),
        nothing.as_case("2", "bag", NEVER.queries[0]),
    )
    rows = tuple(rows_of("stream", STREAM_METRICS, cases))
    assert any(math.isnan(row.value) for row in rows)  # no second of static scene
    write_results(tmp_path / "results.json", RunResults({}, cases, rows))
    read = read_results(tmp_path)
    assert read.cases == cases
    assert {row.metric: str(row.value) for row in read.rows} == {
        row.metric: str(row.value) for row in rows
    }
    assert all(row.definition is not None for row in read.rows)
