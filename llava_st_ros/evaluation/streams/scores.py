"""Scores of a standing query on a recording: from what was published to the values of a case.

======================= =====================================================================
key                     what it is
======================= =====================================================================
final_*, live_*         of the boxes as last published, and as known at each frame (``tubes``):
 .._viou, _tiou, _siou  overlap of the tubes over the camera's frames (``tube_overlaps``)
 .._hota, _deta, _assa  ``hota``
 .._idf1                ``idf1``
 .._id_switches         id switches, minutes in which the object is visible (``id_switches``)
track_ids               of REC: ids of the tracks with a final box in a frame that shows an object,
                        objects with such a track: at most as many as ids
live_correct            object boxes with a live box of IoU >= 0.5, all object boxes
detection_delay         seconds from the start of a span to its first claim (``claims``)
missed_events           spans without a claim, spans
false_events            events or tracks of which no claim overlaps a span, hours outside spans
false_confirmed         the same of queries about events only
false_provisional       events of which nothing that was published overlaps a span, PROVISIONAL ones
                        included, hours outside spans
retracted               RETRACTED events, published events
contradicted            RETRACTED ones, events that were CONFIRMED
timeliness_f1_1, _5     numerator and denominator of Timeliness-F1 (``timeliness_f1``)
changed_answers         changes, minutes of static scene (``stability``)
stamp_to_answer         seconds from the newest frame that an answer is about to its publication;
                        absent where answers take no time
silent_ticks            ticks without a false claim, ticks outside the spans
answered_without, ...   of single answers and their windows (``windows``)
unparsed                answers with something missing or malformed, answers
failed                  evaluations that raised an exception, evaluations
======================= =====================================================================

Overlap and tracking values exist if there is a frame with an annotated box in a span. Frames in
which the object is hidden are ignored. Without annotated objects, and for TVG, there is only the
tIoU of the frames in events. Of tasks that describe (TR, REG, DGC, DVC), only the answers are
counted. Of a query that matches nothing there are no overlaps, but false events. What was never
answered, or not readably, scores 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_st_ros.annotations.records import AnnotatedQuery, GroundTruth
from llava_st_ros.evaluation.metric_kinds import (
    OURS,
    AurocMetric,
    CalibrationErrorMetric,
    MeanMetric,
    Metric,
    QuantileMetric,
    RatioMetric,
)
from llava_st_ros.evaluation.publications import PublishedTick
from llava_st_ros.evaluation.recording import Recording
from llava_st_ros.evaluation.results import Case, Timeline
from llava_st_ros.evaluation.scoring import NO_MATCH
from llava_st_ros.evaluation.streams.claims import (
    claims,
    contradictions,
    detection_delays,
    false_claims,
    first_claims,
    provisional_claims,
    retractions,
    silent_ticks,
)
from llava_st_ros.evaluation.streams.query_stream import QueryStream, query_streams
from llava_st_ros.evaluation.streams.query_truth import QueryTruth
from llava_st_ros.evaluation.streams.stability import changed_answers
from llava_st_ros.evaluation.streams.timeliness_f1 import timeliness_counts
from llava_st_ros.evaluation.streams.tracking_metrics import (
    TrackingFrame,
    correct_boxes,
    hota,
    id_switches,
    idf1,
    tube_overlaps,
)
from llava_st_ros.evaluation.streams.tubes import (
    TrackBoxes,
    compared_frames,
    frames_in_events,
    frames_in_live_events,
    live_boxes,
    recorded,
)
from llava_st_ros.evaluation.streams.windows import WindowFigures
from llava_st_ros.records import NANOSECONDS, Box, Task
from llava_st_ros.tracking.standing import EVENT_TASKS

TRACKEVAL, SPOT_BENCH = "TrackEval", "SPOT-Bench"  # conventions
BOX_TASKS = (Task.STVG, Task.SVG, Task.ELC, Task.REC)
CLAIM_TASKS = frozenset((*BOX_TASKS, *EVENT_TASKS))  # what they find is published
MAX_PROBLEMS = 5  # of a case, that are listed each


@dataclass(frozen=True)
class StreamScores:
    """The scores of one query: what a ``Case`` holds."""

    values: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    expected: Timeline = field(default_factory=Timeline)
    predicted: Timeline = field(default_factory=Timeline)
    problems: tuple[str, ...] = ()

    def as_case(self, case_id: str, source: str, query: AnnotatedQuery) -> Case:
        """Return the scores as a case.

        Args:
            case_id: Unique in the run.
            source: The recording.
            query: The query.
        """
        return Case(
            case_id,
            source,
            NO_MATCH if query.no_match else query.task.value,
            query.text,
            self.values,
            self.counts,
            self.samples,
            self.expected,
            self.predicted,
            query.topic,
            self.problems,
        )


def score_stream(
    published: Sequence[PublishedTick],
    query: AnnotatedQuery,
    ground_truth: GroundTruth,
    stamps: Mapping[int, Sequence[int]],
    *,
    camera: str | None = None,
    allowance: int = 0,
) -> StreamScores:
    """Score what was published about a query.

    Args:
        published: What was published, in order of publication.
        query: The query.
        ground_truth: The annotations that contain it.
        stamps: The stamps of its camera's frames (ns) by the number of their stream
            (``ReplayResult.streams``). Streams are scored apart and then added up.
        camera: The camera's name in the published records; None if there is only one camera.
        allowance: How much later than a frame (ns) a tick may be published to count for it.
    """
    truth = QueryTruth.of(query, ground_truth)
    streams = [
        stream for stream in query_streams(published, query.id, stamps, camera) if stream.stamps
    ]
    recordings = [recorded(stream) for stream in streams]
    boxes = [r.query_boxes(query.id, s.stamps) for s, r in zip(streams, recordings)]
    values: dict[str, float] = {}
    counts: dict[str, tuple[float, float]] = {}
    samples: dict[str, tuple[float, ...]] = {}
    frames = [stamp for stream in streams for stamp in stream.stamps]
    has_boxes = query.task in BOX_TASKS and bool(truth.objects)
    if has_boxes and any(map(truth.expected, frames)):
        _score_boxes(truth, streams, boxes, allowance, values, counts)
    elif query.task in EVENT_TASKS and not has_boxes and any(map(truth.is_active, frames)):
        _score_event_frames(truth, streams, recordings, allowance, values)
    if query.task in CLAIM_TASKS:
        _score_claims(truth, streams, counts, samples)
        _score_windows(truth, ground_truth, streams, counts, samples)
    _score_answers(truth, streams, counts, samples)
    return StreamScores(
        values,
        {key: (float(above), float(below)) for key, (above, below) in counts.items()},
        samples,
        _expected(truth, streams),
        _predicted(boxes, recordings),
        _problems(truth, streams, counts),
    )


def _score_boxes(
    truth: QueryTruth,
    streams: Sequence[QueryStream],
    final: Sequence[Mapping[int, TrackBoxes]],
    allowance: int,
    values: dict[str, float],
    counts: dict[str, tuple[float, float]],
) -> None:
    live = [live_boxes(stream, allowance) for stream in streams]
    for variant, boxes in (("final", final), ("live", live)):
        tubes: list[TrackingFrame] = []
        frames: list[TrackingFrame] = []
        for stream, of_stream in zip(streams, boxes):
            tubes += compared_frames(truth, stream.stamps, of_stream, len(truth.objects))
            frames += compared_frames(truth, stream.stamps, of_stream)
        viou, tiou, siou = tube_overlaps(tubes)
        tracking = hota(frames)
        values |= {
            f"{variant}_viou": viou,
            f"{variant}_tiou": tiou,
            f"{variant}_siou": siou,
            f"{variant}_hota": tracking.hota,
            f"{variant}_deta": tracking.det_a,
            f"{variant}_assa": tracking.ass_a,
            f"{variant}_idf1": idf1(frames),
        }
        counts[f"{variant}_id_switches"] = id_switches(frames), _visible_minutes(truth, streams)
        if variant == "live":
            counts["live_correct"] = correct_boxes(frames)
        elif truth.query.task is Task.REC:
            ids = {track for frame in frames if frame.expected for track in frame.predicted}
            if ids:
                counts["track_ids"] = len(ids), min(len(ids), len(truth.objects))


def _visible_minutes(truth: QueryTruth, streams: Sequence[QueryStream]) -> float:
    """Return the header time from each frame with an expected box to the next frame."""
    nanoseconds = sum(
        after - before
        for stream in streams
        for before, after in zip(stream.stamps, stream.stamps[1:])
        if truth.expected(before)
    )
    return nanoseconds / NANOSECONDS / 60


def _score_event_frames(
    truth: QueryTruth,
    streams: Sequence[QueryStream],
    recordings: Sequence[Recording],
    allowance: int,
    values: dict[str, float],
) -> None:
    final = [frames_in_events(stream, r) for stream, r in zip(streams, recordings)]
    live = [frames_in_live_events(stream, allowance) for stream in streams]
    for variant, found in (("final", final), ("live", live)):
        both = either = 0
        for stream, predicted in zip(streams, found):
            expected = {stamp for stamp in stream.stamps if truth.is_active(stamp)}
            both, either = both + len(predicted & expected), either + len(predicted | expected)
        values[f"{variant}_tiou"] = both / either


def _score_claims(
    truth: QueryTruth,
    streams: Sequence[QueryStream],
    counts: dict[str, tuple[float, float]],
    samples: dict[str, tuple[float, ...]],
) -> None:
    delays: list[float | None] = []
    false, hours, silent, ticks = 0, 0.0, 0, 0
    timeliness = {1: (0.0, 0.0), 5: (0.0, 0.0)}
    for stream in streams:
        spans, made = truth.spans_within(stream.stamps), claims(stream, truth.query.task)
        delays += detection_delays(spans, made)
        false += len(false_claims(truth, made))
        hours += truth.inactive_seconds(stream.stamps) / 3600
        silent_here, ticks_here = silent_ticks(truth, stream)
        silent, ticks = silent + silent_here, ticks + ticks_here
        slots = [span.start / NANOSECONDS for span in spans]
        responses = [at / NANOSECONDS for at in first_claims(made)]
        for most, (above, below) in timeliness.items():
            added = timeliness_counts(slots, responses, most)
            timeliness[most] = above + added[0], below + added[1]
    counts["false_events"] = false, hours
    counts["silent_ticks"] = silent, ticks
    if truth.query.task in EVENT_TASKS:
        _score_states(truth, streams, (false, hours), counts)
    if delays:
        samples["detection_delay"] = tuple(delay for delay in delays if delay is not None)
        counts["missed_events"] = sum(delay is None for delay in delays), len(delays)
        for most, fraction in timeliness.items():
            counts[f"timeliness_f1_{most}"] = fraction
    if truth.query.no_match:
        counts["false_events_no_match"] = counts["false_events"]


def _score_states(
    truth: QueryTruth,
    streams: Sequence[QueryStream],
    false_events: tuple[float, float],
    counts: dict[str, tuple[float, float]],
) -> None:
    published = [[*claims(s, truth.query.task), *provisional_claims(s)] for s in streams]
    false = sum(len(false_claims(truth, made)) for made in published)
    counts["false_confirmed"] = false_events
    counts["false_provisional"] = false, false_events[1]
    for key, count in (("retracted", retractions), ("contradicted", contradictions)):
        found = [count(stream) for stream in streams]
        counts[key] = sum(above for above, _ in found), sum(below for _, below in found)


def _score_windows(
    truth: QueryTruth,
    ground_truth: GroundTruth,
    streams: Sequence[QueryStream],
    counts: dict[str, tuple[float, float]],
    samples: dict[str, tuple[float, ...]],
) -> None:
    objects = [item for item in ground_truth.objects if item.topic == truth.query.topic]
    figures = WindowFigures()
    for stream in streams:
        for tick in stream.ticks:
            for answer in tick.answers:
                figures.add(answer, truth, objects)
    counts.update(figures.counts)
    samples.update(figures.samples)


def _score_answers(
    truth: QueryTruth,
    streams: Sequence[QueryStream],
    counts: dict[str, tuple[float, float]],
    samples: dict[str, tuple[float, ...]],
) -> None:
    changes, minutes = 0, 0.0
    for stream in streams:
        changes_here, minutes_here = changed_answers(truth, stream)
        changes, minutes = changes + changes_here, minutes + minutes_here
    answers = [answer for stream in streams for tick in stream.ticks for answer in tick.answers]
    failures = sum(len(tick.failures) for stream in streams for tick in stream.ticks)
    waits = tuple(
        (tick.at - max(answer.window)) / NANOSECONDS
        for stream in streams
        for tick in stream.ticks
        for answer in tick.answers
        if answer.window
    )
    if any(waits):
        samples["stamp_to_answer"] = waits
    counts["changed_answers"] = changes, minutes
    counts["unparsed"] = sum(bool(answer.answer.problems) for answer in answers), len(answers)
    counts["failed"] = failures, failures + len(answers)


def _expected(truth: QueryTruth, streams: Sequence[QueryStream]) -> Timeline:
    boxes = {s: truth.expected(s) for stream in streams for s in stream.stamps}
    return Timeline(
        tuple((span.start, span.end) for span in truth.query.spans),
        {stamp: _first(found) for stamp, found in boxes.items() if found},
    )


def _predicted(
    boxes: Sequence[Mapping[int, TrackBoxes]], recordings: Sequence[Recording]
) -> Timeline:
    spans = sorted((event.span.start, event.span.end) for r in recordings for event in r.events)
    first = {stamp: _first(found) for of_stream in boxes for stamp, found in of_stream.items()}
    return Timeline(tuple(spans), first)


def _first(boxes: Mapping[Any, Box]) -> Box:
    return next(iter(boxes.values()))


def _problems(
    truth: QueryTruth,
    streams: Sequence[QueryStream],
    counts: Mapping[str, tuple[float, float]],
) -> tuple[str, ...]:
    """Return what was wrong with the answers, and which annotations are outside of the footage."""
    ticks = [tick for stream in streams for tick in stream.ticks]
    found = []
    failed, evaluations = counts["failed"]
    if failed:
        found.append(f"{failed:.0f} of {evaluations:.0f} evaluations failed")
    if failed == evaluations:
        found.append("never answered")
    kinds = Counter(failure.error for tick in ticks for failure in tick.failures)
    kinds += Counter(
        problem for tick in ticks for answer in tick.answers for problem in answer.answer.problems
    )
    found += [f"{problem} ({count} times)" for problem, count in kinds.most_common(MAX_PROBLEMS)]
    if len(kinds) > MAX_PROBLEMS:
        found.append(f"{len(kinds) - MAX_PROBLEMS} other problems")
    if truth.query.task not in CLAIM_TASKS:
        found.append(f"a {truth.query.task.value} query finds neither tracks nor events to score")
    seen = sum(len(truth.spans_within(stream.stamps)) for stream in streams)
    if seen < len(truth.query.spans):
        found.append(
            f"{len(truth.query.spans) - seen} of {len(truth.query.spans)} annotated spans contain "
            "no frame; they are not scored"
        )
    boxes_of_spans = any(truth.expected(s) for stream in streams for s in stream.stamps)
    if seen and truth.objects and truth.query.task in BOX_TASKS and not boxes_of_spans:
        found.append("no annotated box has the stamp of a frame within a span")
    return tuple(found)


def _overlap_metrics(variant: str) -> tuple[Metric, ...]:
    return (
        MeanMetric(f"{variant} vIoU", f"{variant}_viou"),
        MeanMetric(f"{variant} tIoU", f"{variant}_tiou"),
        MeanMetric(f"{variant} sIoU", f"{variant}_siou"),
        MeanMetric(f"{variant} HOTA", f"{variant}_hota", TRACKEVAL),
        MeanMetric(f"{variant} DetA", f"{variant}_deta", TRACKEVAL),
        MeanMetric(f"{variant} AssA", f"{variant}_assa", TRACKEVAL),
        MeanMetric(f"{variant} IDF1", f"{variant}_idf1", TRACKEVAL),
        RatioMetric(f"{variant} id switches", f"{variant}_id_switches", TRACKEVAL, "1/min", True),
    )


STREAM_METRICS: Sequence[Metric] = (
    *_overlap_metrics("final"),
    *_overlap_metrics("live"),
    RatioMetric("ids per followed object", "track_ids", lower_is_better=True),
    RatioMetric("correct live track", "live_correct"),
    QuantileMetric("detection delay p50", "detection_delay", unit="s", lower_is_better=True),
    QuantileMetric(
        "detection delay p90", "detection_delay", unit="s", lower_is_better=True, quantile=0.9
    ),
    QuantileMetric("answer latency p50", "stamp_to_answer", unit="s", lower_is_better=True),
    QuantileMetric(
        "answer latency p90", "stamp_to_answer", unit="s", lower_is_better=True, quantile=0.9
    ),
    RatioMetric("missed events", "missed_events", lower_is_better=True),
    RatioMetric("Timeliness-F1 @1", "timeliness_f1_1", SPOT_BENCH),
    RatioMetric("Timeliness-F1 @5", "timeliness_f1_5", SPOT_BENCH),
    RatioMetric("false events", "false_events", unit="1/h", lower_is_better=True),
    RatioMetric(
        "false events, no match", "false_events_no_match", unit="1/h", lower_is_better=True
    ),
    RatioMetric("false confirmed events", "false_confirmed", unit="1/h", lower_is_better=True),
    RatioMetric(
        "false events, provisional ones too",
        "false_provisional",
        unit="1/h",
        lower_is_better=True,
    ),
    RatioMetric("retracted events", "retracted", lower_is_better=True),
    RatioMetric("retracted after confirmation", "contradicted", lower_is_better=True),
    RatioMetric("answered though nothing matches", "answered_without", lower_is_better=True),
    RatioMetric("missed, complete event", "missed_complete", lower_is_better=True),
    RatioMetric("missed, cut event", "missed_cut", lower_is_better=True),
    RatioMetric("window vIoU, complete event", "complete_viou"),
    RatioMetric("window vIoU, cut event", "cut_viou"),
    AurocMetric(
        "AUROC of P(match)", "match_probability_complete", negatives="match_probability_without"
    ),
    AurocMetric(
        "AUROC of P(match), something else happens",
        "match_probability_complete",
        negatives="match_probability_other",
    ),
    CalibrationErrorMetric(
        "ECE of P(match)",
        "match_probability_complete",
        negatives="match_probability_without",
        lower_is_better=True,
    ),
    RatioMetric("missed, object visible", "missed_visible", lower_is_better=True),
    RatioMetric("answered, object not visible", "answered_invisible", lower_is_better=True),
    RatioMetric("silent while nothing matches", "silent_ticks"),
    RatioMetric("answers changed", "changed_answers", unit="1/min", lower_is_better=True),
    RatioMetric("unparsed answers", "unparsed", lower_is_better=True),
    RatioMetric("failed evaluations", "failed", lower_is_better=True),
)

# What each convention of STREAM_METRICS computes, one line.
STREAM_CONVENTIONS: Mapping[str, str] = {
    OURS: (
        "on a stream: all frames of the camera; ends of spans included; frames where the object is "
        "hidden do not count; final: as last published, live: as published by each frame"
    ),
    TRACKEVAL: (
        "each query is a sequence, and its figures are averaged; HOTA, DetA, AssA over IoU "
        "thresholds 0.05 to 0.95; IDF1 and id switches at IoU >= 0.5"
    ),
    SPOT_BENCH: (
        "the start of each annotated span is a slot, 1 s to both sides; K responses of a slot "
        "count (@K)"
    ),
}
