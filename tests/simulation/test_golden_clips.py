"""The simulator's output is that of SIMULATOR_VERSION, the key under which clips are cached."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from llava_st_ros.simulation.events import EventKind
from llava_st_ros.simulation.version import SIMULATOR_VERSION
from support.simulator_golden import (
    COMMAND,
    MAX_DIFFERENCE,
    Golden,
    clip_differences,
    read_golden,
    render_golden,
)

pytestmark = pytest.mark.renderer

CLIPS_CHANGED = (
    "the simulator's clips are not those of SIMULATOR_VERSION {version}: {differences}. If the "
    "change is intended, raise SIMULATOR_VERSION in llava_st_ros/simulation/version.py, so that "
    f"cached clips are rendered again, and store the new golden clips with: {COMMAND}"
)
QUESTIONS_CHANGED = (
    "the questions about {name} have changed. If the change is intended, store the new ones with: "
    f"{COMMAND}"
)


@pytest.fixture(scope="module")
def stored() -> Golden:
    return read_golden()


@pytest.fixture(scope="module")
def rendered() -> Golden:
    return render_golden()


def test_golden_clips_are_of_the_current_version(stored) -> None:
    assert stored.version == SIMULATOR_VERSION, f"store the golden clips again with: {COMMAND}"


def test_rendered_clips_equal_the_golden_clips(stored, rendered) -> None:
    differences = clip_differences(stored, rendered)
    assert not differences, CLIPS_CHANGED.format(
        version=stored.version, differences="; ".join(differences)
    )


def test_questions_equal_the_golden_questions(stored, rendered) -> None:
    assert stored.questions.keys() == rendered.questions.keys()
    for name, questions in rendered.questions.items():
        assert questions == stored.questions[name], QUESTIONS_CHANGED.format(name=name)


def test_golden_clips_have_every_kind_of_event(stored) -> None:
    kinds = {event["kind"] for clip in stored.clips.values() for event in clip["events"]}
    assert kinds == {kind.value for kind in EventKind}


def test_changed_boxes_events_and_frames_are_reported(stored) -> None:
    assert clip_differences(stored, stored) == []
    clips = copy.deepcopy(stored.clips)
    clips["train 0"]["boxes"][3][0] = [0.0, 0.0, 0.5, 0.5]
    clips["test 8"]["events"] = []
    moved = clip_differences(stored, replace(stored, clips=clips))
    assert moved == ["train 0: boxes differ", "test 8: events differ"]
    changed = stored.thumbnails.copy()
    changed[0] = changed[0] // 2 + 100
    changed[1, 4, 8, 8, 0] = (int(changed[1, 4, 8, 8, 0]) + MAX_DIFFERENCE + 1) % 256
    found = clip_differences(stored, replace(stored, thumbnails=changed))
    assert [text.split(": frames differ")[0] for text in found] == ["train 0", "train 5"]
