"""Tracks as vision_msgs, version 3 or 4: the module of the messages is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import Header

from llava_st_ros.records import Track, TrackState
from llava_st_ros.ros.conversions import header
from llava_st_ros.ros.depth_camera import PlacedTrack


def detections_2d(types: Any, tracks: Sequence[Track], array_header: Header) -> Any:
    """Convert the tracks of one camera to a Detection2DArray.

    A LOST track is not a detection and is left out. ``id`` is the track's id, ``class_id`` the id
    of its query. A detection has the stamp and frame_id of the image of its box, which may be
    older than those of the array.

    Args:
        types: The module vision_msgs.msg.
        tracks: The tracks.
        array_header: The header of the array.
    """
    return types.Detection2DArray(
        header=array_header,
        detections=[
            _detection_2d(types, track) for track in tracks if track.state is not TrackState.LOST
        ],
    )


def detections_3d(types: Any, placed: Sequence[PlacedTrack], array_header: Header) -> Any:
    """Convert tracks of one camera with boxes in space to a Detection3DArray.

    ``id``, ``class_id`` and the stamps are those of ``detections_2d``.

    Args:
        types: The module vision_msgs.msg.
        placed: The tracks.
        array_header: The header of the array.
    """
    return types.Detection3DArray(
        header=array_header, detections=[_detection_3d(types, entry) for entry in placed]
    )


def _detection_3d(types: Any, placed: PlacedTrack) -> Any:
    detection = types.Detection3D(
        header=header(placed.track.stamp, placed.frame_id),
        results=[_hypothesis(types, placed.track)],
        id=str(placed.track.track_id),
    )
    detection.bbox.center = pose(placed)
    detection.bbox.size = size(placed)
    detection.results[0].pose.pose = pose(placed)
    return detection


def pose(placed: PlacedTrack) -> Pose:
    """The center and the orientation of a box."""
    (x, y, z), (qx, qy, qz, qw) = placed.center, placed.orientation
    return Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def size(placed: PlacedTrack) -> Vector3:
    x, y, z = placed.size
    return Vector3(x=x, y=y, z=z)


def _detection_2d(types: Any, track: Track) -> Any:
    x_min, y_min, x_max, y_max = track.box.to_pixels(track.width, track.height)
    detection = types.Detection2D(
        header=header(track.stamp, track.frame_id),
        results=[_hypothesis(types, track)],
        id=str(track.track_id),
    )
    center = detection.bbox.center
    position = getattr(center, "position", center)  # vision_msgs 3 has no position
    position.x, position.y = float(x_min + x_max) / 2, float(y_min + y_max) / 2
    detection.bbox.size_x, detection.bbox.size_y = float(x_max - x_min), float(y_max - y_min)
    return detection


def _hypothesis(types: Any, track: Track) -> Any:
    result = types.ObjectHypothesisWithPose()
    result.hypothesis.class_id = track.query_id
    result.hypothesis.score = float(track.confidence)
    return result
