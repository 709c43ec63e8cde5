"""The node's parameters: one table of names, defaults, ranges and descriptions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from llava_st_ros.config import HISTORY, GrounderConfig, StreamConfig
from llava_st_ros.errors import ConfigError
from llava_st_ros.media.image_decoding import MAX_PIXELS
from llava_st_ros.query_rules import MAX_PERIOD, MIN_PERIOD
from llava_st_ros.ros.camera_sources import (
    RAW,
    TRANSPORTS,
    CameraSource,
    DepthSource,
    camera_info_topic,
    check_rectified,
    check_topics,
    depth_source,
    parse_camera_topics,
    parse_cameras,
    parse_rectified,
)
from llava_st_ros.ros.output_kinds import ALL, NAMES, NAMES_3D
from llava_st_ros.ros.parameter_overrides import read_overrides
from llava_st_ros.ros.parameter_sources import NO_SOURCES, ParameterSources
from llava_st_ros.ros.parameter_values import join_problems, read_value, ros_value
from llava_st_ros.ros.qos import AUTO, RELIABILITIES
from llava_st_ros.streaming.frame_gate import MAX_FRAME_RATE, TRACK_RATE
from llava_st_ros.streaming.silence import CAMERA_TIMEOUT


def _parameter(
    default: Any,
    description: str,
    *,
    live: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Return a field of NodeParameters.

    Args:
        default: Its default. A tuple is a list of strings.
        description: Shown by ``ros2 param describe`` and in config/grounding.yaml.
        live: Whether it can be changed while the node runs.
        low: Smallest allowed number.
        high: Largest allowed number; required with ``low``.
    """
    return field(
        default=default,
        metadata={"description": description, "live": live, "low": low, "high": high},
    )


@dataclass(frozen=True)
class NodeParameters:
    """The values of all parameters of the node.

    Defaults are those of GrounderConfig where there is one, except for ``history``: a robot has
    the time to fill the window first.

    Raises:
        ConfigError: A value is not valid.
    """

    # An empty string means "not set": rclpy cannot infer the type of an empty list.
    model: str = _parameter(
        "", "Checkpoint folder or engine directory; empty: the model that comes with the package"
    )
    backend: str = _parameter(
        "",
        "Runtime of the network: torch, onnxruntime or tensorrt; empty: the one that the model's "
        "folder is for",
    )
    device: str = _parameter("", "cpu, cuda or cuda:N; empty: a GPU for tensorrt, else cpu")
    precision: str = _parameter(
        "",
        "Precision of a checkpoint: float32 (also if empty), bfloat16 or float16; an engine "
        "directory has its own",
    )
    threads: int = _parameter(
        0,
        "CPU threads of the network; 0: OMP_NUM_THREADS or the runtime's default. Set it low if "
        "other processes need the cores",
        low=0,
        high=1024,
    )
    autostart: bool = _parameter(
        True, "Configure and activate at startup; false if a lifecycle manager does it"
    )
    cameras: tuple[str, ...] = _parameter(
        ("camera=image",),
        "Image topics, each 'topic' or 'name=topic'; the name defaults to the topic. A topic that "
        "ends in /compressed carries CompressedImage",
    )
    transport: str = _parameter(
        RAW, "raw, or compressed: subscribe to <topic>/compressed of every camera"
    )
    image_reliability: str = _parameter(
        AUTO,
        "QoS reliability of the image subscriptions: auto (reliable while every publisher of the "
        "topic is, else best_effort), reliable or best_effort",
    )
    rectify: tuple[str, ...] = _parameter(
        (),
        "Names of the cameras whose images the node rectifies by their CameraInfo: boxes are then "
        "those of the rectified image. Without a usable CameraInfo their images are dropped",
    )
    depth: tuple[str, ...] = _parameter(
        (),
        "Depth topics for 3D boxes, each 'camera=topic', or 'topic' if there is one camera: images "
        "registered to the camera's, 16UC1 in millimeters or 32FC1 in meters",
    )
    camera_info: tuple[str, ...] = _parameter(
        (),
        "CameraInfo topics of the cameras in depth and rectify, written as in depth; default: "
        "camera_info beside the image topic",
    )
    depth_tolerance: float = _parameter(
        0.1,
        "Most seconds between the stamps of an image and of its depth image",
        low=0.0,
        high=10.0,
    )
    depth_megabytes: int = _parameter(
        128,
        "Maximum memory per camera for depth images, in MiB; kept only while 3D boxes of a track "
        "have a subscriber",
        low=1,
        high=65536,
    )
    target_frame: str = _parameter(
        "", "tf frame of the 3D boxes, if tf2_ros is installed; empty: that of the camera"
    )
    queries: tuple[str, ...] = _parameter(
        (),
        "Standing queries, each plain words or a JSON object with text and optionally "
        "id, task, cameras, period, expiry, span and box (span and box in [0, 1])",
    )
    queries_file: str = _parameter(
        "",
        "File with further standing queries: a list in YAML or JSON of the same entries, also as "
        "mappings. It is read when the node is configured",
    )
    max_queries: int = _parameter(
        GrounderConfig.max_queries,
        "Most standing queries; a further one is rejected. Those that exist are kept",
        live=True,
        low=1,
        high=10_000,
    )
    window_seconds: float = _parameter(
        StreamConfig.window_seconds,
        "Length of the window that the model sees, in seconds",
        low=0.1,
        high=3600.0,
    )
    history: float = _parameter(
        HISTORY,
        "Fraction of the window that must have been received before a standing video query is "
        "evaluated; 0: evaluate at once",
        low=0.0,
        high=1.0,
    )
    buffer_megabytes: int = _parameter(
        StreamConfig.buffer_bytes // 2**20,
        "Maximum memory per camera for images and their features, in MiB; the published model's "
        "window takes 500",
        low=1,
        high=65536,
    )
    reset_seconds: float = _parameter(
        StreamConfig.reset_seconds,
        "A stamp that jumps back, or further ahead than its arrival explains, by more than this "
        "many seconds does not continue its stream; several that agree start a new one",
        low=0.001,
        high=3600.0,
    )
    constrained: bool = _parameter(
        GrounderConfig.constrained, "Restrict each answer to the grammar of its task"
    )
    max_new_tokens: int = _parameter(
        GrounderConfig.max_new_tokens, "Maximum length of an answer, in tokens", low=1, high=32768
    )
    stop_timeout: float = _parameter(
        8.0,  # ros2 launch and docker send SIGKILL 10 s after the first signal
        "Maximum duration in seconds of a deactivation, cleanup or shutdown; an inference that is "
        "still running then is abandoned",
        low=0.1,
        high=600,
    )
    watchdog_seconds: float = _parameter(
        60.0,
        "An inference that makes no progress for this many seconds (no frame encoded, no token "
        "generated) is reported as hung: events end, and one-shot queries that wait for it get an "
        "error",
        live=True,
        low=0.1,
        high=3600.0,
    )
    no_match_threshold: float = _parameter(
        GrounderConfig.no_match_threshold,
        "A standing query is answered with 'no match' if P(no match) is at or above this; 1: never",
        low=0.0,
        high=1.0,
    )
    evidence_floor: float = _parameter(
        GrounderConfig.evidence_floor,
        "P(match) from which the most probable match of a standing query is decoded as evidence, "
        "even if the answer is 'no match'; 1: never",
        low=0.0,
        high=1.0,
    )
    evidence_on: float = _parameter(
        GrounderConfig.evidence_on,
        "An event is taken to happen where the mean probability of all answers that saw the moment "
        "reaches this",
        live=True,
        low=0.01,
        high=1.0,
    )
    evidence_off: float = _parameter(
        GrounderConfig.evidence_off,
        "An event is taken to be over, and a followed object to be gone, below this probability; "
        "at most evidence_on",
        live=True,
        low=0.01,
        high=1.0,
    )
    confirmations: int = _parameter(
        GrounderConfig.confirmations,
        "Answers that must agree on an event before it is CONFIRMED",
        live=True,
        low=1,
        high=100,
    )
    provisional_events: bool = _parameter(
        GrounderConfig.provisional_events,
        "Publish events before they are CONFIRMED, too, as PROVISIONAL",
        live=True,
    )
    min_confidence: float = _parameter(
        GrounderConfig.min_confidence,
        "Answers with a lower confidence are published, but treated as 'no match'",
        live=True,
        low=0.0,
        high=1.0,
    )
    association_iou: float = _parameter(
        GrounderConfig.association_iou,
        "Mean IoU above which an answer continues a track",
        live=True,
        low=0.01,
        high=1.0,
    )
    track_timeout: float = _parameter(
        GrounderConfig.track_timeout_seconds,
        "A track that has been lost for this many seconds is dropped",
        live=True,
        low=0.01,
        high=3600.0,
    )
    track_memory: float = _parameter(
        GrounderConfig.memory_seconds,
        "An object that was lost keeps its track id if it is found again within this many seconds",
        live=True,
        low=0.01,
        high=3600.0,
    )
    event_gap: float = _parameter(
        GrounderConfig.event_gap_seconds,
        "Two spans that are less than this many seconds apart are one event",
        live=True,
        low=0.01,
        high=3600.0,
    )
    default_period: float = _parameter(
        1.0,
        "Period in seconds of a new query that has none of its own",
        live=True,
        low=MIN_PERIOD,
        high=MAX_PERIOD,
    )
    max_frame_rate: float = _parameter(
        MAX_FRAME_RATE,
        "Images above this rate in Hz, by their stamps, are skipped; 0: no limit",
        live=True,
        low=0,
        high=1e3,
    )
    camera_timeout: float = _parameter(
        CAMERA_TIMEOUT,
        "A camera that sends no usable image for this many seconds, and for three of its usual "
        "intervals, is silent: its tracks are LOST and its events end",
        live=True,
        low=0.1,
        high=3600.0,
    )
    track_rate: float = _parameter(
        TRACK_RATE,
        "Tracks are carried to at most so many images per second and camera between two answers, "
        "by optical flow; 0: to none",
        live=True,
        low=0,
        high=1e3,
    )
    max_megapixels: float = _parameter(
        MAX_PIXELS / 1e6,
        "Larger images, in millions of pixels, are dropped before memory is taken for them",
        low=0.001,
        high=1e4,
    )
    outputs: tuple[str, ...] = _parameter(
        (ALL,),
        f"Tracks also as messages of other packages, each of {', '.join(NAMES)}; auto: all whose "
        "packages are installed; empty: none",
    )
    overlay_quality: int = _parameter(80, "JPEG quality of the overlay", live=True, low=1, high=100)
    log_period: float = _parameter(
        5.0, "Minimum time in seconds before a warning is repeated", live=True, low=0.1, high=3600.0
    )

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value!r}; expected one of {', '.join(allowed)}"
            for name, allowed, value in (
                ("transport", TRANSPORTS, self.transport),
                ("image_reliability", RELIABILITIES, self.image_reliability),
            )
            if value not in allowed
        ]
        problems += [
            f"outputs has {name!r}; expected {ALL} or names of {', '.join(NAMES)}"
            for name in self.outputs
            if name.strip() and name not in (ALL, *NAMES)
        ]
        if self.evidence_off > self.evidence_on:
            problems.append(
                f"evidence_off is {self.evidence_off}; expected at most evidence_on, "
                f"{self.evidence_on}"
            )
        try:
            problems += self._camera_problems(parse_cameras(self.cameras, self.transport))
        except ConfigError as error:
            problems.append(str(error))
        if problems:
            raise join_problems(problems)

    def _camera_problems(self, cameras: Iterable[CameraSource]) -> list[str]:
        """Raises ConfigError for what cannot be read at all."""
        names = [camera.name for camera in cameras]
        depth = parse_camera_topics("depth", self.depth, names)
        rectified = parse_rectified(self.rectify, names)
        problems = [
            f"camera_info has camera {name!r}, which has no depth topic and is not in rectify"
            for name in parse_camera_topics("camera_info", self.camera_info, names)
            if name not in depth and name not in rectified
        ]
        if wanted := [] if depth else sorted(set(self.outputs) & set(NAMES_3D)):
            problems.append(f"outputs has {', '.join(wanted)}, but no camera has a depth topic")
        return problems

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all parameters."""
        return tuple(entry.name for entry in fields(cls))

    @property
    def camera_sources(self) -> tuple[CameraSource, ...]:
        return parse_cameras(self.cameras, self.transport)

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.camera_sources)

    @property
    def rectified_cameras(self) -> tuple[CameraSource, ...]:
        """Those whose images the node rectifies."""
        names = parse_rectified(self.rectify, self.camera_names)
        return tuple(source for source in self.camera_sources if source.name in names)

    @property
    def topics(self) -> list[tuple[str, str, str]]:
        """All topics, as ``check_topics`` expects them."""
        entries = [("cameras", source.topic, source.suffix) for source in self.camera_sources]
        for name, values in (("depth", self.depth), ("camera_info", self.camera_info)):
            topics = parse_camera_topics(name, values, self.camera_names)
            entries += [(name, topic, "") for topic in topics.values()]
        return entries

    def info_topic(self, node: Node, camera: CameraSource) -> str:
        """The CameraInfo topic of a camera, as the node resolves it."""
        infos = parse_camera_topics("camera_info", self.camera_info, self.camera_names)
        return camera_info_topic(node, camera, infos.get(camera.name, ""))

    def depth_sources(self, node: Node) -> tuple[DepthSource, ...]:
        """The cameras with depth, with their topics as the node resolves them."""
        depth = parse_camera_topics("depth", self.depth, self.camera_names)
        infos = parse_camera_topics("camera_info", self.camera_info, self.camera_names)
        rectified = self.rectified_cameras
        return tuple(
            depth_source(
                node,
                camera,
                depth[camera.name],
                infos.get(camera.name, ""),
                is_rectified=camera in rectified,
            )
            for camera in self.camera_sources
            if camera.name in depth
        )

    @property
    def grounder_config(self) -> GrounderConfig:
        return GrounderConfig(
            stream=StreamConfig(
                window_seconds=self.window_seconds,
                history=self.history,
                buffer_bytes=self.buffer_megabytes * 2**20,
                reset_seconds=self.reset_seconds,
            ),
            max_new_tokens=self.max_new_tokens,
            constrained=self.constrained,
            no_match_threshold=self.no_match_threshold,
            max_queries=self.max_queries,
            evidence_floor=self.evidence_floor,
            evidence_on=self.evidence_on,
            evidence_off=self.evidence_off,
            confirmations=self.confirmations,
            provisional_events=self.provisional_events,
            min_confidence=self.min_confidence,
            association_iou=self.association_iou,
            track_timeout_seconds=self.track_timeout,
            memory_seconds=self.track_memory,
            event_gap_seconds=self.event_gap,
        )


def declare_parameters(node: Node, sources: ParameterSources = NO_SOURCES) -> NodeParameters:
    """Declare every parameter with its description and range, and read the values.

    Args:
        node: The node.
        sources: The parameter files and rules of the command line, to explain a problem.

    Raises:
        ConfigError: A name is unknown, or a value has the wrong type, is outside its range or is
            not valid. All problems are in the message.
    """
    # The values are read before they are declared: rclpy would reject an integer for a number and
    # cannot represent an empty list.
    values, problems = read_overrides(node, fields(NodeParameters), sources)
    try:
        parameters = NodeParameters(**values)
        check_topics(node, parameters.topics)
        check_rectified(node, parameters.rectified_cameras, parameters.depth_sources(node))
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise join_problems(problems)
    entries: list[Any] = [
        (f.name, ros_value(getattr(parameters, f.name)), _descriptor(f))
        for f in fields(NodeParameters)
    ]
    node.declare_parameters("", entries, ignore_override=True)
    return parameters


def with_changes(current: NodeParameters, changes: Iterable[Parameter]) -> NodeParameters:
    """Return ``current`` with changes applied; parameters that it does not have are ignored.

    Raises:
        ConfigError: A value has the wrong type, is outside its range or is not valid.
    """
    known = {f.name: f for f in fields(NodeParameters)}
    return replace(
        current, **{p.name: read_value(known[p.name], p.value) for p in changes if p.name in known}
    )


def to_declared_types(changes: Iterable[Parameter]) -> list[Parameter]:
    """Convert changes to the types with which the parameters were declared.

    Parameters that the node does not have are unchanged.

    Raises:
        ConfigError: A parameter is read-only, or a value has the wrong type or is outside its
            range. All problems are in the message.
    """
    known = {f.name: f for f in fields(NodeParameters)}
    converted: list[Parameter] = []
    problems: list[str] = []
    for change in changes:
        entry = known.get(change.name)
        if entry is None:
            converted.append(change)
        elif not entry.metadata["live"]:
            problems.append(f"{change.name} is read-only: it is read when the node starts")
        else:
            try:
                converted.append(Parameter(change.name, value=read_value(entry, change.value)))
            except ConfigError as error:
                problems.append(str(error))
    if problems:
        raise join_problems(problems)
    return converted


def _descriptor(entry: Field[Any]) -> ParameterDescriptor:
    metadata = entry.metadata
    descriptor = ParameterDescriptor(
        description=metadata["description"], read_only=not metadata["live"]
    )
    low, high = metadata["low"], metadata["high"]
    if low is None:
        return descriptor
    if isinstance(entry.default, int):
        integers = IntegerRange(from_value=int(low), to_value=int(high), step=1)
        descriptor.integer_range.append(integers)
    else:
        numbers = FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
        descriptor.floating_point_range.append(numbers)
    return descriptor
