"""Small files in the published formats of the benchmarks, about the same moving red box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, FRAMES = 400, 200, 40


def xywh(frame: int) -> list[int]:
    """The box of a frame: it moves right by 4 pixels a frame."""
    return [40 + 4 * frame, 50, 80, 100]


def st_align_record(task: str) -> dict[str, Any]:
    """Frames 10 to 29 of 40 are the split; the event is in frames 14 to 20, both included."""
    where = "Where is the corresponding subject/object located?"
    words = {
        "stvg": f"At which time interval in the video can we see a box moves occurring? {where}",
        "svg": f"From <s> to <e>, a box moves. {where}",
        "elc": "Starts in <s>, what happened about the subject/object within the specified region "
        f"<bbox>? {where}",
    }
    answers = {
        "stvg": "From <s> to <e>. Object bounding box: <bboxes>",
        "svg": "Object bounding box: <bboxes>",
        "elc": "Ends in <e>, a box moves right. Object bounding box: <bboxes>",
    }
    return {
        "video_path": "vidor/box.mp4",
        "meta": {
            "width": WIDTH,
            "height": HEIGHT,
            "split": [10, 29],
            "time_token": {"<s>": 14, "<e>": 20},
            "spatial_token": {
                "<bboxes>": {str(frame): xywh(frame) for frame in range(14, 21)},
                "<bbox>": xywh(14),
            },
        },
        "conversations": [
            {"from": "human", "value": f"<video>\n{words[task]}"},
            {"from": "gpt", "value": answers[task]},
        ],
    }


def vidstg_record() -> dict[str, Any]:
    """Frames 10 to 29 are used (end excluded: 30); the event is in frames 14 to 20."""
    return {
        "vid": "101",
        "frame_count": FRAMES,
        "fps": 10.0,
        "width": WIDTH,
        "height": HEIGHT,
        "subject/objects": [{"tid": 0, "category": "box"}, {"tid": 1, "category": "ball"}],
        "used_segment": {"begin_fid": 10, "end_fid": 30},
        "used_relation": {
            "subject_tid": 0,
            "object_tid": 1,
            "predicate": "past",
            "begin_fid": 14,
            "end_fid": 21,
        },
        "temporal_gt": {"begin_fid": 14, "end_fid": 21},
        "captions": [{"description": "the box moves.", "type": "object", "target_id": 0}],
        "questions": [{"description": "what moves?", "type": "object", "target_id": 0}],
    }


def vidor_video() -> dict[str, Any]:
    """The box is object 0; object 1 is in its way."""

    def entry(tid: int, x: int, y: int, w: int, h: int) -> dict[str, Any]:
        edges = {"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h}
        return {"tid": tid, "bbox": edges, "generated": 0, "tracker": "none"}

    return {
        "version": "VERSION 1.0",
        "video_id": "101",
        "video_path": "1002/101.mp4",
        "frame_count": FRAMES,
        "fps": 10.0,
        "width": WIDTH,
        "height": HEIGHT,
        "subject/objects": [{"tid": 0, "category": "box"}, {"tid": 1, "category": "ball"}],
        "trajectories": [[entry(1, 0, 0, 9, 9), entry(0, *xywh(frame))] for frame in range(FRAMES)],
        "relation_instances": [],
    }


def hc_stvg_record(version: int) -> dict[str, Any]:
    """The event is in frames 14 to 20 from 0: st_frame counts from 1."""
    record = {
        "bbox": [xywh(frame) for frame in range(14, 21)],
        "st_frame": 15,
        "ed_frame": 21,
        "img_num": FRAMES,
        "st_time": 7.0,
        "ed_time": 10.5,
    }
    if version == 1:
        return {**record, "caption": "The box moves.", "width": WIDTH, "height": HEIGHT}
    return {**record, "English": "The box moves.", "img_size": [HEIGHT, WIDTH]}


def refcoco_file(form: str) -> dict[str, Any]:
    """Two expressions about one image, in the form "llava_st" or "coco"."""
    image = {"file_name": "COCO_train2014_000000000072.jpg", "width": WIDTH, "height": HEIGHT}
    captions, boxes = ("the red box", "box on the left"), (xywh(0), xywh(0))
    if form == "llava_st":
        images = [{**image, "id": 7 + i, "caption": c} for i, c in enumerate(captions)]
        return {
            "images": images,
            "annotations": [{"id": 7 + i, "bbox": box} for i, box in enumerate(boxes)],
        }
    return {
        "images": [{**image, "id": 72}],
        "annotations": [
            {"id": 7 + i, "image_id": 72, "caption": c, "bbox": box, "category_id": 1}
            for i, (c, box) in enumerate(zip(captions, boxes))
        ],
    }


CHARADES_LINES = "BOX01 1.4 2.0##a box moves.\n"
CHARADES_RECORD = {"image_id": "v_BOX01.mp4", "caption": "A box moves.", "timestamp": [0.35, 0.5]}


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
