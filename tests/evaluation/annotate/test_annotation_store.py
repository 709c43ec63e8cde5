"""Changes from the page are written to the annotation file; a status reports what is not."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from llava_st_ros.annotations import annotation_file
from llava_st_ros.annotations.annotation_file import read_annotations, write_annotations
from llava_st_ros.annotations.records import (
    AnnotatedCamera,
    AnnotatedObject,
    AnnotatedQuery,
    GroundTruth,
)
from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.evaluation.annotate.annotation_store import AnnotationStore, ConflictError
from llava_st_ros.records import Box, Span, Task

TOPIC = "/cam"
CAMERAS = {TOPIC: AnnotatedCamera(TOPIC, 200, 100)}
T = 1_700_000_000_123_456_789  # ns; a number of JavaScript cannot hold it


def cup(**values: Any) -> dict[str, Any]:
    return {
        "id": "cup",
        "label": "red cup",
        "topic": TOPIC,
        "boxes": {str(T): [20, 10, 60, 50], str(T + 1): [22.5, 10, 62.5, 50]},
        "keyframes": [str(T)],
        "ends": [str(T + 2)],
        **values,
    }


def fall(**values: Any) -> dict[str, Any]:
    return {
        "id": "fall",
        "text": "the cup falls",
        "task": "STVG",
        "topic": TOPIC,
        "spans": [[str(T), str(T + 1)]],
        "objects": ["cup"],
        "noMatch": False,
        **values,
    }


CHANGES = {"objects": {"cup": cup()}, "queries": {"fall": fall()}}
TRUTH = GroundTruth(
    (CAMERAS[TOPIC],),
    (
        AnnotatedObject(
            "cup",
            "red cup",
            TOPIC,
            {T: Box(0.1, 0.1, 0.3, 0.5), T + 1: Box(0.1125, 0.1, 0.3125, 0.5)},
            frozenset([T]),
        ),
    ),
    (AnnotatedQuery("fall", "the cup falls", Task.STVG, TOPIC, (Span(T, T + 1),), ("cup",)),),
)


@pytest.fixture
def store(tmp_path: Path) -> AnnotationStore:
    return AnnotationStore(tmp_path / "annotations.json")


def test_changes_are_written_as_records(store: AnnotationStore) -> None:
    assert not store.path.exists()
    answer = store.apply(CHANGES, 1, CAMERAS)
    assert answer == {"revision": 2, "isWritten": True, "problem": "", "incomplete": {}}
    assert read_annotations(store.path) == TRUTH


def test_another_store_shows_what_was_written(store: AnnotationStore) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    assert store.to_json()["objects"] == [cup()]  # with its end, which the file does not have
    shown = AnnotationStore(store.path).to_json()
    assert shown["objects"] == [cup(ends=[])]
    assert shown["queries"] == [fall()]
    assert shown["cameras"] == {TOPIC: [200, 100]}


def test_a_query_without_span_waits_until_it_has_one_or_matches_nothing(
    store: AnnotationStore,
) -> None:
    draft = {"queries": {"fall": fall(spans=[], objects=[])}}
    answer = store.apply(draft, 1, CAMERAS)
    assert answer["incomplete"] == {"fall": 'it has no span and is not marked "no match"'}
    assert read_annotations(store.path).queries == ()
    assert store.incomplete() == {"the cup falls": answer["incomplete"]["fall"]}
    assert len(store.to_json()["queries"]) == 1
    no_match = {"queries": {"fall": fall(spans=[], objects=[], noMatch=True)}}
    assert store.apply(no_match, 2, CAMERAS)["incomplete"] == {}
    (query,) = read_annotations(store.path).queries
    assert query.no_match


def test_removed_objects_are_removed_from_queries(store: AnnotationStore) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    store.apply({"objects": {"cup": None}}, 2, CAMERAS)
    truth = read_annotations(store.path)
    assert truth.objects == () and truth.queries[0].objects == ()


def test_what_the_file_has_of_other_cameras_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    other = AnnotatedObject("dog", "", "/rear", {5: Box(0, 0, 1, 1)}, frozenset([5]))
    rear, side = AnnotatedCamera("/rear", 10, 10), AnnotatedCamera("/side", 10, 10)
    write_annotations(path, GroundTruth((rear, side), (other,)))
    store = AnnotationStore(path)
    store.apply(CHANGES, 1, CAMERAS)
    truth = read_annotations(path)
    assert truth.cameras == (rear, side, CAMERAS[TOPIC])
    assert truth.objects == (other, *TRUTH.objects)


def test_a_second_tab_does_not_overwrite_the_first(store: AnnotationStore) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    late = {"objects": {"cup": cup(label="blue cup")}}
    with pytest.raises(ConflictError, match="changed in another tab"):
        store.apply(late, 1, CAMERAS)
    assert read_annotations(store.path) == TRUTH
    store.apply({"objects": {"box": cup(id="box")}}, 1, CAMERAS, force=True)
    assert [item.id for item in read_annotations(store.path).objects] == ["cup", "box"]


def test_an_edit_of_the_file_is_not_overwritten(store: AnnotationStore) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    text = store.path.read_text()
    store.path.write_text(text.replace("red cup", "green cup"))
    with pytest.raises(ConflictError, match="changed by another program"):
        store.apply({"objects": {"box": cup(id="box")}}, 2, CAMERAS)
    assert "green cup" in store.path.read_text()
    store.apply({"objects": {"box": cup(id="box")}}, 2, CAMERAS, force=True)
    labels = {item.id: item.label for item in read_annotations(store.path).objects}
    assert labels == {"cup": "green cup", "box": "red cup"}


def test_an_edit_of_the_file_is_shown(store: AnnotationStore) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    assert not store.status()["hasChanged"]
    os.utime(store.path, ns=(1, 1))
    assert not store.status()["hasChanged"]  # its content is the same
    store.path.write_text(store.path.read_text().replace("red cup", "green cup"))
    assert store.status()["hasChanged"]
    shown = store.to_json()
    assert shown["objects"][0]["label"] == "green cup" and shown["revision"] == 3
    store.path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        store.to_json()
    with pytest.raises(DataError, match="not valid JSON"):
        store.apply(CHANGES, 3, CAMERAS, force=True)
    assert store.path.read_text() == "{"


def test_an_edit_of_the_file_replaces_unwritten_changes_only_on_request(
    store: AnnotationStore,
) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    text = store.path.read_text()
    store.path.chmod(0o444)
    store.apply({"objects": {"cup": cup(label="blue cup")}}, 2, CAMERAS)
    store.path.chmod(0o644)
    store.path.write_text(text.replace("red cup", "green cup"))
    assert store.to_json()["objects"][0]["label"] == "blue cup"
    assert store.to_json(discard=True)["objects"][0]["label"] == "green cup"


def test_the_size_of_images_in_the_file_is_kept(tmp_path: Path) -> None:
    path, small = tmp_path / "a.json", AnnotatedCamera(TOPIC, 100, 50)
    write_annotations(path, GroundTruth((small,)))
    store = AnnotationStore(path)
    with pytest.raises(DataError, match="inside the image of 100x50 pixels"):
        store.apply({"objects": {"cup": cup(boxes={str(T): [20, 10, 60, 51]})}}, 1, CAMERAS)
    store.apply({"objects": {"cup": cup()}}, 1, CAMERAS)
    truth = read_annotations(path)
    assert truth.cameras == (small,)
    assert truth.objects[0].boxes[T] == Box(0.2, 0.2, 0.6, 1.0)


def test_a_deleted_file_is_written_again(store: AnnotationStore) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    for action in (store.to_json, lambda: store.to_json(discard=True), store.status):
        store.path.unlink()
        shown = action()
        assert shown["problem"] == f"{store.path} was deleted" and not shown["isWritten"]
        assert store.save()["isWritten"]
        assert read_annotations(store.path) == TRUTH
    store.path.unlink()
    store.apply({"objects": {"cup": cup(label="blue cup")}}, 2, CAMERAS)
    truth = read_annotations(store.path)
    assert truth.objects[0].label == "blue cup" and truth.queries == TRUTH.queries


def test_a_read_only_file_is_kept_and_so_are_the_changes(
    store: AnnotationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store.apply(CHANGES, 1, CAMERAS)
    before = store.path.read_bytes()
    store.path.chmod(0o444)
    answer = store.apply({"objects": {"cup": cup(label="blue cup")}}, 2, CAMERAS)
    assert not answer["isWritten"] and answer["problem"] == f"{store.path} is read-only"
    assert store.path.read_bytes() == before
    assert store.to_json()["objects"][0]["label"] == "blue cup"  # as a reload shows it
    rescued = store.rescue()
    assert rescued is not None and read_annotations(rescued).objects[0].label == "blue cup"
    store.path.chmod(0o644)
    assert store.save()["isWritten"]
    assert read_annotations(store.path).objects[0].label == "blue cup"
    assert store.rescue() is None


def test_a_full_disk_keeps_the_old_file(
    store: AnnotationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    before = store.path.read_bytes()

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(annotation_file, "write_text", full)
        answer = store.apply({"objects": {"cup": cup(label="blue cup")}}, 2, CAMERAS)
    assert answer["problem"] == f"{store.path} cannot be written: No space left on device"
    assert store.path.read_bytes() == before
    assert store.apply({"objects": {"box": cup(id="box")}}, 3, CAMERAS)["isWritten"]
    labels = {item.id: item.label for item in read_annotations(store.path).objects}
    assert labels == {"cup": "blue cup", "box": "red cup"}


def test_an_unwritable_place_is_known_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="Not a directory"):
        AnnotationStore(tmp_path / "file" / "annotations.json")
    store = AnnotationStore(Path("/proc/annotations.json"))
    assert store.problem.startswith("/proc/annotations.json cannot be written: ")
    assert not store.apply(CHANGES, 1, CAMERAS)["isWritten"]


def test_a_link_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    write_annotations(target, GroundTruth(()))
    (tmp_path / "link.json").symlink_to(target)
    AnnotationStore(tmp_path / "link.json").apply(CHANGES, 1, CAMERAS)
    assert (tmp_path / "link.json").is_symlink()
    assert read_annotations(target) == TRUTH


def test_an_invalid_file_is_an_error_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text('{"format": "coco"}')
    with pytest.raises(DataError, match=r"annotations\.json is not an annotation file"):
        AnnotationStore(path)
    assert path.read_text() == '{"format": "coco"}'


BAD: list[dict[str, Any]] = [
    {"objects": []},
    {"objects": {"cup": 1}},
    {"objects": {"x": cup()}},
    {"objects": {"cup": cup(topic="/other")}},
    {"objects": {"cup": cup(topic=["/cam"])}},
    {"objects": {"cup": cup(label=5)}},
    {"objects": {"cup": cup(label="\ud800")}},
    {"objects": {"cup": cup(boxes={"1.5": [1, 1, 2, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={"-1": [1, 1, 2, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={str(2**63): [1, 1, 2, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={"9" * 5000: [1, 1, 2, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={"1": [1, 1, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={"1": [1, 1, 201, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={"1": [2, 1, 1, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={"1": [1, 1, 1.0004, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={"1": ["1", 1, 2, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(boxes={"1": [float("nan"), 1, 2, 2]}, keyframes=[])}},
    {"objects": {"cup": cup(keyframes=["7"])}},
    {"objects": {"cup": cup(ends="7")}},
    {"objects": {"cup": {**cup(), "extra": 1}}},
    {"objects": {"": cup(id="")}},
    {"queries": {"fall": fall(task="WALK")}},
    {"queries": {"fall": fall(task=None)}},
    {"queries": {"fall": fall(text="a\0b")}},
    {"queries": {"fall": fall(text="a" * 3000)}},
    {"queries": {"fall": fall(spans=[["2", "1"]])}},
    {"queries": {"fall": fall(spans=[["1", "5"], ["5", "6"]])}},
    {"queries": {"fall": fall(spans=[["1"]])}},
    {"queries": {"fall": fall(noMatch=True)}},
    {"queries": {"fall": fall(noMatch=1)}},
    {"queries": {"fall": fall(objects=[7])}},
]


@pytest.mark.parametrize("changes", BAD, ids=range(len(BAD)))
def test_invalid_changes_are_errors_and_change_nothing(
    store: AnnotationStore, changes: dict[str, Any]
) -> None:
    store.apply(CHANGES, 1, CAMERAS)
    with pytest.raises(LlavaStError) as caught:
        store.apply(json.loads(json.dumps(changes)), 2, CAMERAS)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert read_annotations(store.path) == TRUTH
    assert store.status()["revision"] == 2
