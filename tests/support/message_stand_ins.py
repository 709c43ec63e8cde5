"""Stand-ins for messages of packages that are not installed, with their fields and types.

The fields are those that rosidl's ``get_fields_and_field_types`` reports for the packages; a test
compares them where a package is installed. As in a message with checks, an unknown field or a value
of another type is an error.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

_PRIMITIVES = {"string": str, "double": float, "float": float, "uint8": int, "boolean": bool}

Fields = dict[str, dict[str, str]]

_DETECTIONS: Fields = {
    "ObjectHypothesis": {"class_id": "string", "score": "double"},
    "ObjectHypothesisWithPose": {
        "hypothesis": "vision_msgs/ObjectHypothesis",
        "pose": "geometry_msgs/PoseWithCovariance",
    },
    "Detection2D": {
        "header": "std_msgs/Header",
        "results": "sequence<vision_msgs/ObjectHypothesisWithPose>",
        "bbox": "vision_msgs/BoundingBox2D",
        "id": "string",
    },
    "Detection2DArray": {
        "header": "std_msgs/Header",
        "detections": "sequence<vision_msgs/Detection2D>",
    },
    "BoundingBox3D": {"center": "geometry_msgs/Pose", "size": "geometry_msgs/Vector3"},
    "Detection3D": {
        "header": "std_msgs/Header",
        "results": "sequence<vision_msgs/ObjectHypothesisWithPose>",
        "bbox": "vision_msgs/BoundingBox3D",
        "id": "string",
    },
    "Detection3DArray": {
        "header": "std_msgs/Header",
        "detections": "sequence<vision_msgs/Detection3D>",
    },
}
VISION_MSGS_4: Fields = {
    **_DETECTIONS,
    "Point2D": {"x": "double", "y": "double"},
    "Pose2D": {"position": "vision_msgs/Point2D", "theta": "double"},
    "BoundingBox2D": {"center": "vision_msgs/Pose2D", "size_x": "double", "size_y": "double"},
}
VISION_MSGS_3: Fields = {
    **_DETECTIONS,
    "BoundingBox2D": {
        "center": "geometry_msgs/Pose2D",
        "size_x": "double",
        "size_y": "double",
    },
}
_ANNOTATION_BASE: Fields = {
    "Color": {"r": "double", "g": "double", "b": "double", "a": "double"},
    "Point2": {"x": "double", "y": "double"},
    "PointsAnnotation": {
        "timestamp": "builtin_interfaces/Time",
        "type": "uint8",
        "points": "sequence<foxglove_msgs/Point2>",
        "outline_color": "foxglove_msgs/Color",
        "outline_colors": "sequence<foxglove_msgs/Color>",
        "fill_color": "foxglove_msgs/Color",
        "thickness": "double",
    },
    "TextAnnotation": {
        "timestamp": "builtin_interfaces/Time",
        "position": "foxglove_msgs/Point2",
        "text": "string",
        "font_size": "double",
        "text_color": "foxglove_msgs/Color",
        "background_color": "foxglove_msgs/Color",
    },
    "CircleAnnotation": {},
    "ImageAnnotations": {
        "circles": "sequence<foxglove_msgs/CircleAnnotation>",
        "points": "sequence<foxglove_msgs/PointsAnnotation>",
        "texts": "sequence<foxglove_msgs/TextAnnotation>",
    },
}
# Versions differ: since 2025, ImageAnnotations has a time and every annotation has metadata.
FOXGLOVE_MSGS_OLD = _ANNOTATION_BASE
_METADATA = {"metadata": "sequence<foxglove_msgs/KeyValuePair>"}
FOXGLOVE_MSGS_NEW: Fields = {
    **_ANNOTATION_BASE,
    "KeyValuePair": {"key": "string", "value": "string"},
    "PointsAnnotation": {**_ANNOTATION_BASE["PointsAnnotation"], **_METADATA},
    "TextAnnotation": {**_ANNOTATION_BASE["TextAnnotation"], **_METADATA},
    "ImageAnnotations": {
        "timestamp": "builtin_interfaces/Time",
        **_ANNOTATION_BASE["ImageAnnotations"],
        **_METADATA,
    },
}
_CONSTANTS = {"PointsAnnotation": {"LINE_LOOP": 2}}


def stand_ins(package: str, fields: Fields) -> Any:
    """Return a replacement of the module ``package``.msg."""
    module = SimpleNamespace()
    for name, entries in fields.items():
        setattr(module, name, _make_class(package, name, entries, module))
    return module


def _make_class(package: str, name: str, fields: dict[str, str], module: Any) -> type:
    def default(kind: str) -> Any:
        if kind.startswith("sequence<"):
            return []
        if kind in _PRIMITIVES:
            return _PRIMITIVES[kind]()
        owner, _, message = kind.partition("/")
        types = module if owner == package else importlib.import_module(f"{owner}.msg")
        return getattr(types, message)()

    def construct(self: Any, **values: Any) -> None:
        for field, kind in fields.items():
            object.__setattr__(self, field, default(kind))
        for field, value in values.items():
            setattr(self, field, value)

    def assign(self: Any, field: str, value: Any) -> None:
        assert field in fields, f"{name} has no field {field}"
        expected = type(default(fields[field]))
        assert type(value) is expected, f"{name}.{field} is {value!r}; expected {expected}"
        object.__setattr__(self, field, value)

    body = {"__init__": construct, "__setattr__": assign, "FIELDS": fields}
    return type(name, (), {**body, **_CONSTANTS.get(name, {})})
