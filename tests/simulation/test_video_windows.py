"""Windows of videos: what is visible in them, and questions about them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_st_ros.records import Box, Task
from llava_st_ros.simulation.descriptions import SYNONYMS
from llava_st_ros.simulation.events import EventKind, SimulatedEvent, can_be_subject
from llava_st_ros.simulation.phrasing import BEHIND, PREDICATES, plausible_subjects
from llava_st_ros.simulation.questions import EVENT_TASKS, Sample, clip_samples
from llava_st_ros.simulation.scenes import COLORS, SHAPES, SIZES, SimulatedObject
from llava_st_ros.simulation.simulator import SimulatedClip
from llava_st_ros.simulation.window_questions import (
    NO_MATCH_KINDS,
    window_event_samples,
    window_no_match_samples,
    window_pairs,
)
from llava_st_ros.simulation.windows import MIN_VISIBLE, VideoWindow, window_of
from support.random_videos import FRAMES, random_video

BALL = SimulatedObject("red", "ball", "small", 0.05)
BOX = SimulatedObject("blue", "box", "large", 0.07)
ALL_KINDS = dict.fromkeys(NO_MATCH_KINDS, 1.0)


def video_of(
    kind: EventKind, span: tuple[int, int], other: int | None = None, frames: int = 12
) -> SimulatedClip:
    """The ball is the subject of one event; the box rests. Neither touches the border."""
    boxes = np.zeros((frames, 2, 4), dtype=np.float32)
    boxes[:, 0] = [0.4, 0.4, 0.5, 0.5]
    boxes[:, 1] = [0.6, 0.6, 0.8, 0.8]
    events = (SimulatedEvent(kind, 0, other, span),)
    pixels = np.arange(frames, dtype=np.uint8)[:, None]
    return SimulatedClip(0, pixels, boxes, (BALL, BOX), events, np.arange(frames) * 0.3)


def test_object_that_is_hidden_at_an_end_may_have_left_or_may_enter() -> None:
    """The box rolls behind the ball, say: who sees only the window may say that it disappears."""
    video = video_of(EventKind.LIFTED, (4, 8))
    video.boxes[9:, 1] = np.nan
    video.boxes[:2, 1] = np.nan
    both = window_of(video, range(12)).clip
    assert both.unclear == (
        SimulatedEvent(EventKind.LEAVES, 1, None, (8, 8)),
        SimulatedEvent(EventKind.ENTERS, 1, None, (2, 2)),
    )
    between = window_of(video, range(2, 9)).clip
    assert between.unclear == ()
    hidden_in_the_middle = video_of(EventKind.LIFTED, (4, 8))
    hidden_in_the_middle.boxes[5, 1] = np.nan
    assert window_of(hidden_in_the_middle, range(12)).clip.unclear == ()
    # An event that explains it stays what it is.
    leaves = video_of(EventKind.LEAVES, (2, 4))
    leaves.boxes[2:5, 0, 0] = 0.0
    leaves.boxes[5:, 0] = np.nan
    seen = window_of(leaves, range(12)).clip
    assert [event.kind for event in seen.events] == [EventKind.LEAVES] and seen.unclear == ()


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (range(12), (4, 8)),  # complete
        (range(2, 7), (2, 4)),  # frames 4, 5 and 6 of 4 to 8 are in it
        (range(7, 12), (0, 1)),  # 7 and 8
        (range(5, 7), (0, 1)),  # both ends are cut
        ([2, 4, 6, 9], (1, 2)),  # a window that skips frames
        ([3, 3, 4, 5, 5], (2, 4)),  # frames are repeated until the camera has run long enough
    ],
)
def test_event_keeps_its_visible_part(frames, expected: tuple[int, int]) -> None:
    window = window_of(video_of(EventKind.LIFTED, (4, 8)), frames)
    assert [event.span for event in window.clip.events] == [expected]
    assert window.clip.unclear == window.absent == ()
    np.testing.assert_array_equal(window.clip.frames[:, 0], list(frames))
    np.testing.assert_allclose(window.clip.stamps, np.array(frames) * 0.3)


@pytest.mark.parametrize(
    ("frames", "slots"),
    [(range(5), (4, 4)), (range(8, 12), (0, 0)), ([3, 4, 4, 4], (1, 3))],
)
def test_sliver_of_an_event_is_unclear(frames, slots: tuple[int, int]) -> None:
    assert MIN_VISIBLE == 2
    window = window_of(video_of(EventKind.LIFTED, (4, 8)), frames)
    assert window.clip.events == window.absent == ()
    assert [event.span for event in window.clip.unclear] == [slots]


@pytest.mark.parametrize("frames", [range(4), range(9, 12), [1, 2, 9, 10]])
def test_event_that_is_over_or_has_not_begun_is_absent(frames) -> None:
    video = video_of(EventKind.LIFTED, (4, 8))
    window = window_of(video, frames)
    assert window.clip.visible_events == ()
    assert window.absent == video.events


@pytest.mark.parametrize(
    ("kind", "frames", "is_clear"),
    [
        (EventKind.LEAVES, range(2, 7), False),  # an object on its way
        (EventKind.LEAVES, range(5, 10), True),  # then it is gone
        (EventKind.ENTERS, range(5, 10), False),
        (EventKind.ENTERS, range(3, 6), True),
        (EventKind.COLLIDES, range(2, 6), False),  # before the contact
        (EventKind.COLLIDES, range(2, 8), True),
        (EventKind.PUSHED, range(2, 6), True),
    ],
)
def test_event_that_could_be_another_is_unclear(kind: EventKind, frames, is_clear: bool) -> None:
    video = video_of(kind, (4, 8), 1 if kind is EventKind.COLLIDES else None)
    video.boxes[6:, 1] += np.float32(0.05)  # the box is hit
    window = window_of(video, frames)
    assert len(window.clip.events) == is_clear
    assert len(window.clip.unclear) == (not is_clear)


@pytest.mark.parametrize(("side", "frames"), [(0, range(2, 7)), (0, range(5, 9))])
def test_leaving_is_clear_when_the_subject_is_at_the_border(side: int, frames) -> None:
    video = video_of(EventKind.LEAVES, (4, 8))
    video.boxes[6:, 0, side] = 0.0
    assert len(window_of(video, frames).clip.events) == 1


def test_motion_before_an_object_stops_is_unclear() -> None:
    video = video_of(EventKind.STOPS, (6, 9))
    (moving,) = window_of(video, range(1, 6)).clip.unclear
    assert moving.span == (0, 4)
    assert window_of(video, range(4, 9)).clip.events[0].span == (2, 4)
    assert window_of(video, range(10, 12)).absent == video.events


@given(st.integers(0, 10_000), st.data())
def test_each_event_is_in_the_window_unclear_or_absent(seed: int, data) -> None:
    video = random_video(seed)
    frames = sorted(data.draw(st.lists(st.integers(0, FRAMES - 1), min_size=2, max_size=25)))
    window = window_of(video, frames)
    clip = window.clip
    assert len(clip.events) + len(clip.unclear) + len(window.absent) == len(video.events)
    for event in clip.events:
        first, last = event.span
        (source,) = [
            e
            for e in video.events
            if (e.kind, e.subject) == (event.kind, event.subject)
            and e.span[0] <= frames[first]
            and frames[last] <= e.span[1]
        ]
        shown = [i for i, f in enumerate(frames) if source.span[0] <= f <= source.span[1]]
        assert shown == list(range(first, last + 1))
        assert len({frames[i] for i in shown}) >= 2


def windows(videos: int, each: int = 3) -> list[tuple[VideoWindow, np.random.Generator]]:
    found = []
    for seed in range(videos):
        video = random_video(seed)
        for number in range(each):
            rng = np.random.default_rng([seed, number])
            first = int(rng.integers(FRAMES - 20))
            found.append((window_of(video, range(first, first + 20)), rng))
    return found


WORDS = {word: name for name, words in SYNONYMS.items() for word in (name, *words)}
PLACES = r"left|right|leftmost|rightmost|next|farthest|first|second|third|fourth|fifth"


def kinds_of(text: str, objects: tuple[SimulatedObject, ...]) -> set[EventKind]:
    """The kinds that a text's predicate names."""
    return {
        kind
        for kind in EventKind
        for predicate in (*PREDICATES[kind], *(BEHIND if kind is EventKind.ROLLS else ()))
        for item in objects
        if re.search(rf" {predicate.replace('@', item.name)}\??$", text)
    }


def matches(text: str, item: SimulatedObject) -> bool:
    """Whether an object has all attributes that a text without a place mentions."""
    subject = re.split(
        r" that | (?=is |gets |falls |rolls|enters|comes |appears|leaves|goes )", text
    )
    words = re.split(r" (?=disappears|collides |hits |bumps |stops|passes )", subject[0])[0].split()
    named = {WORDS.get(word, word) for word in words} & {*COLORS, *SHAPES, *SIZES}
    return named <= {item.color, item.shape, item.size}


def subject_of(sample: Sample, clip: SimulatedClip) -> int | None:
    """The object whose boxes are the sample's evidence."""
    if not sample.subject:
        return None
    frame, box = sample.subject[0]
    (found,) = [
        i
        for i in range(len(clip.objects))
        if np.allclose(clip.boxes[frame, i], (box.x1, box.y1, box.x2, box.y2))
    ]
    return found


def test_no_question_without_a_match_describes_what_may_be_seen() -> None:
    checked = Counter()
    for window, rng in windows(120):
        clip = window.clip
        samples = window_no_match_samples(window, 8, ALL_KINDS, rng)
        samples += [no_match for _, no_match in window_pairs(window, rng)]
        for sample in samples:
            assert sample.answer.no_match
            kinds = kinds_of(sample.text, clip.objects)
            assert kinds, sample.text
            plausible = {
                i for k in kinds for e in clip.visible_events for i in plausible_subjects(k, e)
            }
            if sample.text.startswith("what "):
                assert not plausible, sample.text
            elif re.search(rf"\b({PLACES})\b", sample.text):
                assert subject_of(sample, clip) not in plausible, sample.text
            elif "hits" not in sample.text and "collides" not in sample.text:
                hit = [i for i in plausible if matches(sample.text, clip.objects[i])]
                wrong_object = "bumps" in sample.text and len(hit) == 1
                assert not hit or wrong_object, (sample.text, clip.visible_events)
            checked[sample.text.split()[0]] += 1
    assert checked["the"] > 1000 and checked["what"] > 10


def test_pair_differs_in_a_word_or_the_predicate_and_has_opposite_answers() -> None:
    changes = Counter()
    for window, rng in windows(60):
        for answered, no_match in window_pairs(window, rng):
            assert answered.task is no_match.task and answered.task in EVENT_TASKS
            assert answered.span == no_match.span
            assert not answered.answer.no_match and no_match.answer.no_match
            a, b = answered.text.split(), no_match.text.split()
            kinds = [kinds_of(s.text, window.clip.objects) for s in (answered, no_match)]
            if kinds[0] == kinds[1] and len(a) == len(b):
                changes["word"] += 1
                assert sum(x != y for x, y in zip(a, b)) in (1, 2)  # 2: the name of what is hit
            else:
                changes["predicate"] += 1
                same = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
                assert same >= 2  # "the red ball" is shared
    assert changes["word"] > 40 and changes["predicate"] > 40


def test_questions_about_other_times_are_about_events_of_the_video() -> None:
    asked = Counter()
    for window, rng in windows(40):
        for sample in window_no_match_samples(window, 6, {"other_time": 1.0}, rng):
            kinds = kinds_of(sample.text, window.clip.objects)
            assert kinds & {event.kind for event in window.absent}
            asked["questions"] += 1
    assert asked["questions"] > 200


def test_evidence_of_the_described_object_is_all_its_boxes() -> None:
    for window, rng in windows(20):
        clip = window.clip
        samples = window_no_match_samples(window, 6, {"other_subject": 1.0}, rng)
        samples += [s for s in window_event_samples(window, rng) if s.task in EVENT_TASKS]
        for sample in samples:
            index = subject_of(sample, clip)
            if index is None:
                assert sample.text.startswith("what ")
                continue
            expected = [Box(*map(float, box)) for box in clip.boxes[:, index]]
            assert sample.subject == tuple(enumerate(expected))


def test_words_do_not_tell_whether_anything_matches() -> None:
    """A naive Bayes classifier of words and pairs of words is hardly better than chance."""
    texts: list[tuple[set, bool, bool]] = []
    by_word: dict[str, Counter] = {}
    for number, (window, rng) in enumerate(windows(240, each=4)):
        answered = [s for s in window_event_samples(window, rng) if s.task in EVENT_TASKS]
        samples = answered + [s for pair in window_pairs(window, rng) for s in pair]
        kinds = {"other_time": 3.0, "other_subject": 3.0, "other_predicate": 3.0, "nothing": 1.0}
        samples += window_no_match_samples(window, len(answered) or 4, kinds, rng)
        for sample in samples:
            words = re.findall(r"\w+", sample.text)
            texts.append(
                ({*words, *itertools.pairwise(words)}, sample.answer.no_match, number < 480)
            )
            for word in set(words):
                by_word.setdefault(word, Counter())[sample.answer.no_match] += 1
    seen = {True: Counter(), False: Counter()}
    for features, no_match, is_training in texts:
        if is_training:
            seen[no_match].update(features)
    scores = {True: [], False: []}
    for features, no_match, is_training in texts:
        if not is_training:
            odds = [np.log((seen[True][f] + 1) / (seen[False][f] + 1)) for f in features]
            scores[no_match].append(sum(odds))
    pairs = np.array(scores[True])[:, None] - np.array(scores[False])[None]
    assert 0.4 < np.mean(pairs > 0) + np.mean(pairs == 0) / 2 < 0.62
    for word, counts in by_word.items():
        if counts.total() > 150:
            assert 0.25 < counts[True] / counts.total() < 0.72, (word, counts)


def test_shapes_seldom_do_what_they_never_do() -> None:
    impossible = total = 0
    for window, rng in windows(60):
        for sample in window_no_match_samples(window, 6, ALL_KINDS, rng):
            shapes = {WORDS.get(w, w) for w in sample.text.split()[:4]} & {*SHAPES}
            kinds = kinds_of(sample.text, window.clip.objects)
            if len(shapes) == 1 and len(kinds) == 1:
                total += 1
                impossible += not can_be_subject(next(iter(kinds)), next(iter(shapes)))
    assert total > 300 and impossible < 0.08 * total


def test_window_without_events_has_questions() -> None:
    video = video_of(EventKind.LIFTED, (4, 8))
    window = window_of(video, range(9, 12))
    rng = np.random.default_rng(0)
    assert window_event_samples(window, rng) == [] and window_pairs(window, rng) == []
    samples = window_no_match_samples(window, 20, ALL_KINDS, rng)
    assert samples and {s.task for s in samples} == {*EVENT_TASKS}
    for sample in samples:
        assert (sample.span is not None) == (sample.task is Task.SVG)
    assert any(s.text.startswith("the red ball") for s in samples)
    # So have those about clips.
    assert all(s.answer.no_match for s in clip_samples(window.clip, rng) if s.task in EVENT_TASKS)


def test_clip_question_about_a_sliver_is_neither_asked_nor_denied() -> None:
    clip = window_of(video_of(EventKind.LIFTED, (4, 8)), range(5)).clip
    alone = replace(clip, objects=(BALL,), boxes=clip.boxes[:, :1])
    rng = np.random.default_rng(1)
    for _ in range(30):
        for sample in clip_samples(alone, rng):
            if sample.task in EVENT_TASKS:
                assert sample.answer.no_match
                is_lift = EventKind.LIFTED in kinds_of(sample.text, alone.objects)
                assert not (is_lift and matches(sample.text, BALL)), sample.text
