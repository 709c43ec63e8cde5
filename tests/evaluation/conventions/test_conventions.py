"""Every convention on random tubes against a second implementation, and its traps by hand."""

from __future__ import annotations

import doctest
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_st_ros.errors import ConfigError
from llava_st_ros.evaluation.conventions.catalogue import CONVENTIONS, conventions_named
from llava_st_ros.evaluation.conventions.records import BenchmarkSample, Dataset, Prediction
from llava_st_ros.evaluation.metric_kinds import OURS
from llava_st_ros.evaluation.results import Case, rows_of
from llava_st_ros.records import Box, Task
from support import brute_force_conventions as brute_force
from support.random_tubes import random_tubes

MODULES = (
    *("catalogue", "charades_sta", "frames_64", "hc_stvg", "llava_st", "ours"),
    *("records", "refcoco", "tube_figures", "tubedetr"),
)
FULL, LEFT, RIGHT = Box(0.0, 0.0, 1.0, 1.0), Box(0.0, 0.0, 0.5, 1.0), Box(0.5, 0.0, 1.0, 1.0)
TUBES = ("HC-STVG", "TubeDETR", "64-frame")


def video(
    span: tuple[int, int] | None,
    box: Box = FULL,
    *,
    dataset: Dataset = Dataset.HC_STVG,
    frames: int = 100,
    task: Task = Task.STVG,
) -> BenchmarkSample:
    """A video of 5 frames per second and 10 x 10 pixels with the same box throughout the span."""
    boxes = {} if span is None else dict.fromkeys(range(span[0], span[1] + 1), box)
    return BenchmarkSample("v", dataset, task, frames, 5.0, 10, 10, span, boxes)


def answer(span: tuple[int, int], box: Box = FULL) -> Prediction:
    return Prediction(span, dict.fromkeys(range(span[0], span[1] + 1), box))


def scores(name: str, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
    values = CONVENTIONS[name].values(sample, prediction)
    return {key.removeprefix(f"{name} "): value for key, value in values.items()}


def exactly(**values: float | Fraction) -> object:
    return pytest.approx({name: float(value) for name, value in values.items()}, abs=1e-12)


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    module = importlib.import_module(f"llava_st_ros.evaluation.conventions.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("name", "second", "keys"),
    [
        ("HC-STVG", brute_force.hc_stvg, ("tIoU", "vIoU")),
        ("TubeDETR", brute_force.tubedetr, ("tIoU", "vIoU")),
        ("64-frame", brute_force.frames_64, ("tIoU", "vIoU")),
        ("LLaVA-ST", brute_force.llava_st, ("tIoU", "sIoU", "vIoU")),
        (OURS, brute_force.ours, ("tIoU", "vIoU", "sIoU")),
    ],
)
def test_random_tubes_have_the_values_of_a_second_implementation(
    name: str, second: Callable[..., Sequence[Fraction]], keys: tuple[str, ...]
) -> None:
    seen: set[float] = set()
    for sample, prediction in SCORED:
        found = scores(name, sample, prediction)
        expected = dict(zip(keys, map(float, second(sample, prediction))))
        assert {key: found[key] for key in keys} == pytest.approx(expected, abs=1e-9), sample.id
        seen |= {round(value, 3) for value in expected.values()}
    assert len(seen) > 60, "almost all values are the same: the test shows nothing"


# Means over random_tubes(72), from the second implementation; the order of the values as above.
STORED = {
    "HC-STVG": (0.239907986282, 0.100378389939),
    "TubeDETR": (0.258429814317, 0.087878298925),
    "64-frame": (0.253796362286, 0.094317359861),
    "LLaVA-ST": (0.223608341079, 0.196388092059, 0.105041165904),
    OURS: (0.272562142744, 0.109607596808, 0.25898019934),
}
SCORED = tuple(random_tubes(72))


@pytest.mark.parametrize("name", STORED)
def test_the_means_of_random_tubes_are_the_stored_ones(name: str) -> None:
    of_each = [scores(name, sample, prediction) for sample, prediction in SCORED]
    keys = ("tIoU", "sIoU", "vIoU") if name == "LLaVA-ST" else ("tIoU", "vIoU", "sIoU")
    means = [
        sum(values[key] for values in of_each) / len(of_each) for key in keys if key in of_each[0]
    ]
    assert means == pytest.approx(STORED[name], abs=1e-9)


def test_a_perfect_prediction_is_perfect_only_where_frames_are_counted_alike() -> None:
    sample, perfect = video((10, 29)), answer((10, 29))  # L = 20 frames
    assert scores("HC-STVG", sample, perfect) == exactly(tIoU=1, vIoU=1)
    assert scores("TubeDETR", sample, perfect) == exactly(
        tIoU=Fraction(19, 21), vIoU=Fraction(19, 21)
    )
    assert scores("64-frame", sample, perfect) == exactly(
        tIoU=Fraction(19, 20), vIoU=Fraction(19, 20)
    )
    ours = scores(OURS, sample, perfect)
    assert (ours["tIoU"], ours["vIoU"], ours["sIoU"]) == (1.0, 1.0, 1.0)
    vidstg = replace(sample, dataset=Dataset.VIDSTG)
    for name in TUBES:
        assert scores(name, vidstg, perfect) == exactly(tIoU=1, vIoU=1), name


def test_tubedetr_takes_the_number_of_the_first_frame_for_its_index() -> None:
    # The object is left in the first half of the span and right in the second. One frame late, the
    # box of frame 19 is compared with that of frame 20: frames 11..29 are common, 10..30 counted,
    # and at frame 20 the truth is still left.
    boxes = {t: LEFT if t < 20 else RIGHT for t in range(10, 30)}
    sample = replace(video((10, 29)), boxes=boxes)
    found = scores("TubeDETR", sample, Prediction((10, 29), boxes))
    assert found == exactly(tIoU=Fraction(19, 21), vIoU=Fraction(18, 21))


def test_tubedetr_counts_sampled_frames_only() -> None:
    # 10 frames per second: every second frame is sampled; boxes are wrong at the others.
    sample = replace(video((10, 29), dataset=Dataset.VIDSTG), fps=10.0)
    boxes = {t: FULL if t % 2 == 0 else LEFT for t in range(10, 30)}
    found = scores("TubeDETR", sample, Prediction((10, 29), boxes))
    assert found == exactly(tIoU=1, vIoU=1)
    assert scores("HC-STVG", sample, Prediction((10, 29), boxes)) == exactly(tIoU=1, vIoU=0.75)


def test_tubedetr_samples_200_frames_at_most() -> None:
    # 250 frames at 5 per second: j * 250 // 200 = 0, 1, 2, 3, 5, 6, 7, 8, 10, ... lacks 4, 9, ...
    sample = video((0, 9), dataset=Dataset.VIDSTG, frames=250)
    boxes = {t: LEFT if t in (4, 9) else FULL for t in range(10)}
    assert scores("TubeDETR", sample, Prediction((0, 9), boxes)) == exactly(tIoU=1, vIoU=1)
    shorter = video((0, 9), dataset=Dataset.VIDSTG, frames=200)
    assert scores("TubeDETR", shorter, Prediction((0, 9), boxes)) == exactly(tIoU=1, vIoU=0.9)


def test_tubedetr_never_samples_the_last_frame_of_hc_stvg() -> None:
    sample = replace(video((90, 98)), fps=5.0)  # truth is 91..99 there, sampled are 0..98
    found = scores("TubeDETR", sample, answer((91, 99)))
    assert found == exactly(tIoU=1, vIoU=1)
    # Frame 99 with a wrong box costs nothing, frame 98 one of the eight sampled frames.
    wrong = answer((91, 99)).boxes | {99: LEFT}
    assert scores("TubeDETR", sample, Prediction((91, 99), wrong))["vIoU"] == 1.0
    wrong = answer((91, 99)).boxes | {98: LEFT}
    assert scores("TubeDETR", sample, Prediction((91, 99), wrong))["vIoU"] == 7.5 / 8


def test_ends_are_included_or_not() -> None:
    # Truth 0..3, predicted 3..6: one common frame of seven with both ends included.
    sample, prediction = video((0, 3)), answer((3, 6))
    assert scores("HC-STVG", sample, prediction) == exactly(tIoU=1 / 7, vIoU=1 / 7)
    assert scores(OURS, sample, prediction)["tIoU"] == pytest.approx(1 / 7)
    # The lost last frame leaves 0..2 there: nothing in common.
    assert scores("64-frame", sample, prediction) == exactly(tIoU=0, vIoU=0)
    # One frame late, truth is 1..4: two common frames of six.
    assert scores("TubeDETR", sample, prediction) == exactly(tIoU=2 / 6, vIoU=2 / 6)


def test_spans_that_are_apart_are_zero() -> None:
    sample = replace(video((0, 1)), boxes={0: FULL, 1: FULL})
    for name in (*TUBES, OURS):
        found = scores(name, sample, answer((8, 9)))
        assert (found["tIoU"], found["vIoU"]) == (0.0, 0.0), name


def test_a_missing_box_inside_the_truth_is_zero_and_costs_tiou_in_one_convention() -> None:
    sample = video((0, 9), dataset=Dataset.VIDSTG)
    boxes = dict.fromkeys((t for t in range(10) if t != 4), FULL)
    prediction = Prediction((0, 9), boxes, tuple(range(10)))  # frame 4 was seen
    assert scores("HC-STVG", sample, prediction) == exactly(tIoU=0.9, vIoU=0.9)
    assert scores("TubeDETR", sample, prediction) == exactly(tIoU=1, vIoU=0.9)
    assert scores("64-frame", sample, prediction) == exactly(tIoU=1, vIoU=1)  # it is bridged
    ours = scores(OURS, sample, prediction)
    assert (ours["tIoU"], ours["vIoU"], ours["sIoU"]) == pytest.approx((1, 0.9, 0.9))


def test_frames_where_the_object_is_hidden_do_not_count_in_ours() -> None:
    sample = replace(video((0, 9)), boxes=dict.fromkeys((t for t in range(10) if t > 4), FULL))
    ours = scores(OURS, sample, answer((0, 9)))
    assert (ours["tIoU"], ours["vIoU"], ours["sIoU"]) == (1.0, 1.0, 1.0)
    assert scores("HC-STVG", sample, answer((0, 9))) == exactly(tIoU=0.5, vIoU=0.5)


def test_boxes_between_the_frames_that_the_model_saw_are_interpolated() -> None:
    moving = {t: Box(t / 20, 0.0, t / 20 + 0.5, 1.0) for t in range(11)}
    sample = replace(video((0, 10), dataset=Dataset.VIDSTG), boxes=moving)
    prediction = Prediction((0, 10), {0: moving[0], 10: moving[10]}, (0, 10))
    for name in (*TUBES, OURS):
        assert scores(name, sample, prediction)["vIoU"] == pytest.approx(1.0), name


def test_an_answer_that_is_missing_is_zero_in_every_convention() -> None:
    for sample in (video((0, 9)), video((0, 9), task=Task.ELC), video((0, 9), task=Task.SVG)):
        for name, convention in CONVENTIONS.items():
            if convention.applies_to(sample):
                found = scores(name, sample, Prediction(parsed=False))
                assert found and set(found.values()) == {0.0}, name


def test_boxes_without_a_span_count_where_the_scorer_reads_them_apart() -> None:
    sample = video((0, 9), dataset=Dataset.ST_ALIGN)
    boxes = Prediction(None, dict.fromkeys(range(5), FULL), tuple(range(100)), parsed=False)
    for name in TUBES:
        assert scores(name, sample, boxes) == exactly(tIoU=0, vIoU=0), name
    assert scores("LLaVA-ST", sample, boxes) == exactly(tIoU=0, sIoU=1, vIoU=0.5)
    assert scores(OURS, sample, boxes) == exactly(parsed=0, tIoU=0, sIoU=1, vIoU=0.5)


def test_nan_boxes_are_zero_and_stay_in_the_union() -> None:
    nan = Box(math.nan, 0.0, 1.0, 1.0)
    sample = video((0, 3), dataset=Dataset.VIDSTG)
    prediction = Prediction((0, 3), {0: FULL, 1: nan, 2: Box(0.0, math.inf, 1.0, 1.0), 3: FULL})
    for name in (*TUBES, OURS, "LLaVA-ST"):
        assert scores(name, sample, prediction)["vIoU"] == 0.5, name
    image = BenchmarkSample("i", Dataset.REFCOCO, Task.REC, 1, 0.0, 9, 9, boxes={0: FULL})
    for name in ("RefCOCO", "LLaVA-ST", OURS):
        assert scores(name, image, Prediction(boxes={0: nan}))["box IoU"] == 0.0, name


ANY_NUMBER = st.floats(-2.0, 2.0) | st.floats()
BOXES = st.builds(Box, ANY_NUMBER, ANY_NUMBER, ANY_NUMBER, ANY_NUMBER)
FRAMES = st.integers(-3, 15)


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        Prediction,
        st.none() | st.tuples(FRAMES, FRAMES),
        st.dictionaries(FRAMES, BOXES, max_size=6),
        st.just((0, 3, 6, 9)) | st.just(()),
        st.none() | st.tuples(ANY_NUMBER, ANY_NUMBER),
    ),
    st.sampled_from(list(Task)),
    st.sampled_from(list(Dataset)),
)
def test_any_prediction_has_values_in_range(
    prediction: Prediction, task: Task, dataset: Dataset
) -> None:
    sample = video((0, 6), LEFT, dataset=dataset, frames=10, task=task)
    for name, convention in CONVENTIONS.items():
        if convention.applies_to(sample):
            for key, value in convention.values(sample, prediction).items():
                assert 0.0 <= value <= 1.0, (name, key)


def test_swapped_and_empty_boxes_are_zero() -> None:
    sample = video((0, 1), dataset=Dataset.VIDSTG)
    for box in (Box(1.0, 0.0, 0.0, 1.0), Box(1.0, 1.0, 0.0, 0.0), Box(0.5, 0.5, 0.5, 0.5)):
        for name in (*TUBES, OURS, "LLaVA-ST"):
            assert scores(name, sample, answer((0, 1), box))["vIoU"] == 0.0, (name, box)


def test_tubes_outside_the_video_are_counted_as_they_are() -> None:
    # Truth 90..99 of 100 frames; predicted 90..109: half of the frames are after the end.
    sample, prediction = video((90, 99), dataset=Dataset.VIDSTG), answer((90, 109))
    assert scores("HC-STVG", sample, prediction) == exactly(tIoU=0.5, vIoU=0.5)
    assert scores("64-frame", sample, prediction) == exactly(tIoU=0.5, vIoU=0.5)
    assert scores(OURS, sample, prediction)["vIoU"] == 0.5
    # Frames are sampled in the video only: the tube past its end is not seen by vIoU.
    assert scores("TubeDETR", sample, prediction) == exactly(tIoU=0.5, vIoU=1)


def test_llava_st_rounds_predicted_boxes_to_pixels_and_not_the_truth() -> None:
    # 10 pixels: 0.26 is 2.6 in the truth and 3 in the prediction; 0.25 rounds to even, 2.
    for width, expected in ((0.26, 2.6 / 3), (0.25, 2 / 2.5)):
        box = Box(0.0, 0.0, width, 1.0)
        sample = video((0, 9), box, dataset=Dataset.ST_ALIGN)
        prediction = replace(answer((0, 9), box), shown=tuple(range(100)))
        assert scores("LLaVA-ST", sample, prediction)["sIoU"] == pytest.approx(expected)
        assert scores(OURS, sample, prediction)["sIoU"] == pytest.approx(1.0)


def test_llava_st_drops_truth_between_the_frames_that_the_model_saw() -> None:
    # The model saw frames 0, 4, 8, ...; truth is wrong everywhere else, which it does not see.
    shown = tuple(range(0, 100, 4))
    truth = {t: FULL if t % 4 == 0 else LEFT for t in range(20)}
    sample = replace(video((0, 19), dataset=Dataset.ST_ALIGN), boxes=truth)
    prediction = Prediction((0, 16), {t: FULL for t in shown if t < 20}, shown)
    assert scores("LLaVA-ST", sample, prediction)["vIoU"] == 1.0
    assert scores("HC-STVG", sample, prediction)["vIoU"] < 0.7


def test_llava_st_counts_boxes_outside_of_the_span() -> None:
    sample = video((0, 9), dataset=Dataset.ST_ALIGN)
    prediction = Prediction((0, 4), dict.fromkeys(range(20), FULL), tuple(range(100)))
    found = scores("LLaVA-ST", sample, prediction)
    assert (found["sIoU"], found["vIoU"]) == (1.0, 0.5)
    # Frames as points: (4 - 0) / (9 - 0), on fractions rounded to 3 and 5 decimals.
    assert found["tIoU"] == pytest.approx(0.0404 / 0.091, abs=1e-4)


def test_llava_st_rounds_the_truth_of_a_span_to_three_decimals() -> None:
    sample = video((1, 2), dataset=Dataset.ST_ALIGN)  # 1/99 = 0.010101, 2/99 = 0.020202
    prediction = Prediction((1, 2), {}, (), (1 / 99, 2 / 99))
    # Truth 0.010..0.020, prediction 0.01010..0.02020: 0.0099 of 0.0102.
    assert scores("LLaVA-ST", sample, prediction)["tIoU"] == pytest.approx(0.0099 / 0.0102)


def test_llava_st_has_no_tiou_of_a_single_frame_and_of_svg() -> None:
    sample = video((5, 5), dataset=Dataset.ST_ALIGN)
    assert scores("LLaVA-ST", sample, answer((5, 5)))["tIoU"] == 0.0
    svg = scores("LLaVA-ST", replace(sample, task=Task.SVG), answer((5, 5)))
    assert sorted(svg) == ["sIoU", "vIoU"]


def test_llava_st_leaves_answers_without_a_box_out_of_refcoco() -> None:
    image = BenchmarkSample("i", Dataset.REFCOCO, Task.REC, 1, 0.0, 9, 9, boxes={0: FULL})
    hit, miss = Prediction(boxes={0: FULL}), Prediction(parsed=False)
    cases = []
    for index, prediction in enumerate((hit, miss)):
        values: dict[str, float] = {}
        for convention in conventions_named("all"):
            if convention.applies_to(image):
                values |= convention.values(image, prediction)
        cases.append(Case(str(index), "i", "REC", "q", values))
    figures = {
        (row.convention, row.metric): (row.value, row.cases)
        for convention in conventions_named("all")
        for row in rows_of("REC", convention.metrics, cases)
    }
    assert figures["RefCOCO", "Acc@0.5"] == (0.5, 2)
    assert figures["LLaVA-ST", "Acc@0.5"] == (1.0, 1)
    assert figures[OURS, "Acc@0.5"] == (0.5, 2)


def test_llava_st_rounds_boxes_of_images() -> None:
    truth = Box(0.0, 0.0, 0.33349, 1.1)  # 0.333 and, clipped, 1
    image = BenchmarkSample("i", Dataset.REFCOCO, Task.REC, 1, 0.0, 9, 9, boxes={0: truth})
    found = scores("LLaVA-ST", image, Prediction(boxes={0: Box(0.0, 0.0, 0.333, 1.0)}))
    assert found == {"box IoU": pytest.approx(1.0)}
    found = scores("RefCOCO", image, Prediction(boxes={0: Box(0.0, 0.0, 0.333, 1.0)}))
    assert found == {"box IoU": pytest.approx(0.333 / (0.33349 * 1.1))}


def _shares(name: str, sample: BenchmarkSample, prediction: Prediction) -> dict[str, float]:
    convention = CONVENTIONS[name]
    case = Case("a", "v", "t", "q", convention.values(sample, prediction))
    return {row.metric: row.value for row in rows_of("t", convention.metrics, [case])}


@pytest.mark.parametrize("tenths", [3, 5])
def test_thresholds_exactly_met(tenths: int) -> None:
    # A span of 10 frames of which 3 or 5 are predicted, with perfect boxes: exactly the threshold.
    share = f"@{tenths / 10}"
    sample = video((0, 9), dataset=Dataset.VIDSTG)
    prediction = replace(answer((0, tenths - 1)), shown=tuple(range(100)))
    for name in (*TUBES, OURS):
        figures = _shares(name, sample, prediction)
        assert figures["m_vIoU"] == tenths / 10, name
        assert figures[f"vIoU{share}"] == 0.0, name
    llava_st = _shares("LLaVA-ST", sample, prediction)
    assert (llava_st["m_vIoU"], llava_st[f"vIoU{share}"]) == (tenths / 10, 1.0)


def test_thresholds_of_moments_and_boxes_exactly_met() -> None:
    moment = BenchmarkSample(
        "m", Dataset.CHARADES_STA, Task.TVG, 9, 1.0, 9, 9, fractions=(0.0, 1.0)
    )
    for name in ("Charades-STA", "LLaVA-ST", OURS):
        figures = _shares(name, moment, Prediction(fractions=(0.0, 0.5)))
        assert (figures["mIoU"], figures["R1@0.3"], figures["R1@0.5"]) == (0.5, 1.0, 0.0), name
    image = BenchmarkSample("i", Dataset.REFCOCO, Task.REC, 1, 0.0, 9, 9, boxes={0: FULL})
    for name in ("RefCOCO", "LLaVA-ST", OURS):
        figures = _shares(name, image, Prediction(boxes={0: LEFT}))
        assert (figures["mIoU"], figures["Acc@0.5"]) == (0.5, 1.0), name


def test_svg_counts_every_annotated_frame_in_ours() -> None:
    sample = video((0, 9), task=Task.SVG)
    half = Prediction(None, dict.fromkeys(range(5), FULL), tuple(range(10)))
    assert scores(OURS, sample, half)["sIoU"] == 0.5
    assert scores("LLaVA-ST", sample, half) == exactly(sIoU=1, vIoU=0.5)
    # A model that saw every fourth frame is not punished for those between.
    sparse = Prediction(None, dict.fromkeys((0, 4, 8), FULL), (0, 4, 8, 12))
    assert scores(OURS, sample, sparse)["sIoU"] == 1.0


def test_conventions_apply_to_the_tasks_that_they_define() -> None:
    tasks = {
        name: {task.value for task in Task if convention.applies_to(video((0, 9), task=task))}
        for name, convention in CONVENTIONS.items()
    }
    every = {task.value for task in Task}
    assert tasks == {
        OURS: every,
        "HC-STVG": {"STVG"},
        "TubeDETR": {"STVG"},
        "64-frame": {"STVG"},
        "LLaVA-ST": every,
        "Charades-STA": {"TVG"},
        "RefCOCO": {"REC"},
    }


def test_names_and_keys_are_unique_and_said_in_every_metric() -> None:
    keys: set[str] = set()
    for name, convention in CONVENTIONS.items():
        assert {metric.convention for metric in convention.metrics} == {name}
        assert "\n" not in convention.differs
        own = {metric.key for metric in convention.metrics}
        assert not own & keys and all(key.startswith(f"{name} ") for key in own)
        keys |= own


def test_conventions_are_found_by_name_in_any_case() -> None:
    assert [c.name for c in conventions_named("ALL")] == list(CONVENTIONS)
    assert [c.name for c in conventions_named("Ours")] == [OURS]
    assert [c.name for c in conventions_named("hc-stvg")] == ["HC-STVG"]
    with pytest.raises(ConfigError, match="convention 'mot' is unknown; expected one of all, ours"):
        conventions_named("mot")
