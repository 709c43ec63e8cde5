"""Tracks as drawings on the image and in space, for Foxglove and RViz."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header

from llava_st_ros.errors import printable_line
from llava_st_ros.media.overlay import color_of, label_of
from llava_st_ros.records import Track, TrackState
from llava_st_ros.ros.conversions import header
from llava_st_ros.ros.depth_camera import PlacedTrack
from llava_st_ros.ros.detection_messages import pose, size

LABEL_CHARACTERS = 60  # longer labels hide the image
LOST_ALPHA = 0.4
CUBE_ALPHA, MIN_CUBE, LABEL_HEIGHT = 0.5, 0.005, 0.06  # the latter two in meters
FONT_SHARE, LINE_SHARE = 0.03, 0.004  # of the image's height


def image_annotations(types: Any, tracks: Sequence[Track], array_header: Header) -> Any:
    """Convert the tracks of one camera to ImageAnnotations: a box and a label for each.

    Args:
        types: The module foxglove_msgs.msg.
        tracks: The tracks; a LOST one is drawn thin and translucent.
        array_header: Its stamp is that of all annotations, so that Foxglove draws them together.
    """
    message = types.ImageAnnotations()
    if hasattr(message, "timestamp"):  # newer versions; an empty message also has a time then
        message.timestamp = array_header.stamp
    for track in tracks:
        x_min, y_min, x_max, y_max = map(float, track.box.to_pixels(track.width, track.height))
        points = [(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)]
        color = types.Color(**_color(track))
        message.points.append(
            types.PointsAnnotation(
                timestamp=array_header.stamp,
                type=types.PointsAnnotation.LINE_LOOP,
                points=[types.Point2(x=x, y=y) for x, y in points],
                outline_color=color,
                thickness=_line_width(track),
            )
        )
        font = max(10.0, FONT_SHARE * track.height)
        top = max(y_min, font)  # a label above the image would not be visible
        message.texts.append(
            types.TextAnnotation(
                timestamp=array_header.stamp,
                position=types.Point2(x=x_min, y=top),
                text=short_label(track),
                font_size=font,
                text_color=types.Color(r=1.0, g=1.0, b=1.0, a=1.0),
                background_color=color,
            )
        )
    return message


def image_marker(types: Any, tracks: Sequence[Track], array_header: Header) -> Any:
    """Convert the tracks of one camera to one ImageMarker: four lines for each box.

    One marker has all boxes, so that none remains on the image when its track ends. Without tracks
    the marker is removed.

    Args:
        types: The module visualization_msgs.msg.
        tracks: The tracks; a LOST one is translucent.
        array_header: The header of the marker.
    """
    marker = types.ImageMarker(
        header=array_header,
        ns="tracks",
        type=types.ImageMarker.LINE_LIST,
        action=types.ImageMarker.ADD if tracks else types.ImageMarker.REMOVE,
        scale=max(map(_line_width, tracks), default=1.0),
        outline_color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
    )
    for track in tracks:
        x_min, y_min, x_max, y_max = map(float, track.box.to_pixels(track.width, track.height))
        corners = [(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)]
        for start, end in zip(corners, corners[1:] + corners[:1]):
            marker.points += [Point(x=x, y=y, z=0.0) for x, y in (start, end)]
            marker.outline_colors.append(ColorRGBA(**_color(track)))
    return marker


def markers_3d(types: Any, placed: Sequence[PlacedTrack], array_header: Header) -> Any:
    """Convert tracks of one camera with boxes in space to a MarkerArray: a cube and a label each.

    The array starts with the removal of all earlier markers, so that it is complete by itself.

    Args:
        types: The module visualization_msgs.msg.
        placed: The tracks.
        array_header: The header of the removal.
    """
    message = types.MarkerArray()
    message.markers.append(types.Marker(header=array_header, action=types.Marker.DELETEALL))
    for entry in placed:
        track, cube = entry.track, types.Marker(type=types.Marker.CUBE)
        text = types.Marker(type=types.Marker.TEXT_VIEW_FACING, text=short_label(track))
        for name, marker in (("boxes", cube), ("labels", text)):
            marker.header = header(track.stamp, entry.frame_id)
            marker.ns, marker.id = name, track.track_id % 2**31
            marker.action = types.Marker.ADD
            marker.pose = pose(entry)
        cube.scale = size(entry)
        for axis in "xyz":  # RViz does not draw a cube without an extent
            setattr(cube.scale, axis, max(MIN_CUBE, getattr(cube.scale, axis)))
        cube.color = ColorRGBA(**{**_color(track), "a": CUBE_ALPHA})
        text.scale.z = LABEL_HEIGHT
        text.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
        message.markers += [cube, text]
    return message


def short_label(track: Track) -> str:
    """The label of a track in one line of bounded length."""
    label = printable_line(label_of(track))
    if len(label) > LABEL_CHARACTERS:
        half = LABEL_CHARACTERS // 2
        label = f"{label[: half - 3]}...{label[-half:]}"
    return label


def _color(track: Track) -> dict[str, float]:
    red, green, blue = color_of(track.query_id, track.track_id)
    alpha = LOST_ALPHA if track.state is TrackState.LOST else 1.0
    return {"r": red / 255, "g": green / 255, "b": blue / 255, "a": alpha}


def _line_width(track: Track) -> float:
    return 1.0 if track.state is TrackState.LOST else max(2.0, LINE_SHARE * track.height)
