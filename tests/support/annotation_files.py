"""Small annotation files in each format that is read, all of images of 200 x 100 pixels."""

from __future__ import annotations

from typing import Any

TOPIC = "/front/image"
SIZE = {"width": 200, "height": 100}
XYWH_A, XYWH_B = [20, 10, 40, 40], [30.5, 10, 40, 40]

ANNOTATIONS: dict[str, Any] = {
    "format": "llava_st_ros/annotations",
    "version": 1,
    "cameras": [
        {"topic": TOPIC, "width": 200, "height": 100},
        {"topic": "", "width": 8, "height": 8},
    ],
    "objects": [
        {
            "id": "cup",
            "label": "red cup",
            "topic": TOPIC,
            "boxes": [
                {"stamp": 10, "box": [20, 10, 60, 50]},
                {"stamp": 20, "box": [22.5, 10, 62.5, 50], "interpolated": True},
                {"stamp": 30, "box": [25, 10, 65, 50]},
            ],
        }
    ],
    "queries": [
        {
            "id": "fall",
            "text": "the cup falls",
            "task": "STVG",
            "topic": TOPIC,
            "spans": [[10, 20], [25, 40]],
            "objects": ["cup"],
            "no_match": False,
        },
        {"id": "dog", "text": "a dog", "task": "REC", "topic": TOPIC, "no_match": True},
    ],
}

TAO: dict[str, Any] = {
    "info": {"version": "0.1"},
    "videos": [
        {"id": 0, "name": "train/kitchen", "dataset": "Charades", **SIZE},
        {"id": 1, "name": "train/hall", "dataset": "Charades", "width": 64, "height": 48},
    ],
    "images": [
        {"id": 10, "video": "train/kitchen", "video_id": 0, "frame_index": 0, **SIZE},
        {"id": 11, "video": "train/kitchen", "video_id": 0, "frame_index": 3, **SIZE},
        {"id": 12, "video": "train/hall", "video_id": 1, "frame_index": 0},
    ],
    "tracks": [{"id": 5, "category_id": 805, "video_id": 0}],
    "categories": [{"id": 805, "name": "cup", "synset": "cup.n.01", "frequency": "f"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 10,
            "track_id": 5,
            "video_id": 0,
            "category_id": 805,
            "bbox": XYWH_A,
            "area": 1600,
            "iscrowd": 0,
            "segmentation": [[20, 10, 60, 10, 60, 50, 20, 50]],
        },
        {"id": 2, "image_id": 11, "track_id": 5, "video_id": 0, "category_id": 805, "bbox": XYWH_B},
        {"id": 3, "image_id": 12, "track_id": 6, "video_id": 1, "category_id": 805, "bbox": XYWH_B},
        {"id": 4, "image_id": 11, "track_id": 7, "category_id": 805, "bbox": XYWH_A, "iscrowd": 1},
    ],
}
COCOVID: dict[str, Any] = {
    "videos": [{"id": 1, "name": "a"}],
    "images": [
        {"id": 1, "video_id": 1, "frame_id": 0, "file_name": "a/000000.jpg"},
        {"id": 2, "video_id": 1, "frame_id": 1, "file_name": "a/000001.jpg"},
    ],
    "categories": [{"id": 1, "name": "cup"}],
    "annotations": [
        {"id": 1, "image_id": 1, "instance_id": 5, "category_id": 1, "bbox": XYWH_A},
        {"id": 2, "image_id": 2, "instance_id": 5, "category_id": 1, "bbox": XYWH_B},
    ],
}
YOUTUBE_VIS: dict[str, Any] = {
    "videos": [
        {
            "id": 3,
            "file_names": [f"0043f083b5/{n:05d}.jpg" for n in (0, 1, 2, 3)],
            "length": 4,
            "license": 1,
            **SIZE,
        }
    ],
    "categories": [{"id": 25, "name": "cup", "supercategory": "object"}],
    "annotations": [
        {
            "id": 5,
            "video_id": 3,
            "category_id": 25,
            "iscrowd": 0,
            "bboxes": [XYWH_A, None, None, XYWH_B],
            "segmentations": [{"counts": [1], "size": [100, 200]}, None, None, None],
            "areas": [1600, None, None, 1600],
        },
        {"id": 6, "video_id": 4, "category_id": 25, "bboxes": [XYWH_A]},
    ],
}

# As in MOT17: frame, id, left, top, width, height, considered, class, visibility.
MOT17 = """\
1,2,20,10,40,40,1,1,0.86
2,2,30.5,10,40,40,1,1,1
1,5,100,50,20,10,1,3,1
3,9,0,0,50,50,0,11,0.5
"""

CVAT_META = """\
 <version>1.1</version>
 <meta>
  <task>
   <id>4</id><name>run</name><size>8</size><mode>interpolation</mode>
   <start_frame>0</start_frame><stop_frame>7</stop_frame><frame_filter></frame_filter>
   <labels><label><name>cup</name><attributes></attributes></label></labels>
   <original_size><width>200</width><height>100</height></original_size>
  </task>
  <dumped>2026-01-01</dumped>
 </meta>
"""
CVAT = f"""\
<?xml version='1.0' encoding='utf-8'?>
<annotations>
{CVAT_META} <track id="0" label="cup" source="manual">
  <box frame="0" outside="0" occluded="0" keyframe="1"
   xtl="20.00" ytl="10.00" xbr="60.00" ybr="50.00" z_order="0"/>
  <box frame="2" outside="0" occluded="0" keyframe="1"
   xtl="40.00" ytl="10.00" xbr="80.00" ybr="50.00" z_order="0"/>
  <box frame="3" outside="1" occluded="0" keyframe="1"
   xtl="40.00" ytl="10.00" xbr="80.00" ybr="50.00" z_order="0"/>
 </track>
 <track id="1" label="box" source="manual">
  <box frame="4" outside="0" occluded="1" keyframe="1"
   xtl="1" ytl="1" xbr="9.5" ybr="99" rotation="10" z_order="0"/>
  <box frame="5" outside="0" occluded="0" keyframe="0"
   xtl="1" ytl="1" xbr="9.5" ybr="99" z_order="0"/>
 </track>
</annotations>
"""
