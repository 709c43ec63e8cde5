"""The node's parameters: one table of names, defaults, ranges and words; read into a dataclass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from llava_st_ros.config import GrounderConfig, StreamConfig
from llava_st_ros.errors import ConfigError

RAW, COMPRESSED = "raw", "compressed"
TRANSPORTS = (RAW, COMPRESSED)
RELIABILITIES = ("best_effort", "reliable")


def _setting(
    default: Any,
    description: str,
    *,
    live: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A field of NodeParameters. ``live``: it can be changed while the node runs."""
    return field(
        default=default,
        metadata={"description": description, "live": live, "low": low, "high": high},
    )


@dataclass(frozen=True)
class NodeParameters:
    """Every parameter of the node, as it stands. Seconds, pixels and Hz as the words say.

    What it shares with GrounderConfig has its defaults, but for ``history``: a robot has the time
    to see first.
    """

    # An empty string stands for "none": rclpy cannot tell the type of an empty list.
    model: str = _setting(
        "", "Checkpoint or engine directory; empty: the tiny model that comes with the package"
    )
    backend: str = _setting("", "Runtime of the network; empty: as the model's folder says")
    device: str = _setting("", "cpu or cuda:N; empty: a GPU for TensorRT, else the CPU")
    precision: str = _setting(
        "", "float32 (default), bfloat16 or float16 of a checkpoint; an engine has its own"
    )
    threads: int = _setting(
        0,
        "CPU threads of the network; 0: OMP_NUM_THREADS, or as the runtime chooses",
        low=0,
        high=1024,
    )
    autostart: bool = _setting(
        True, "Configure and activate at start; false where a lifecycle manager does it"
    )
    cameras: tuple[str, ...] = _setting(
        ("camera=image",),
        "Image topics, each 'topic' or 'name=topic'; without a name the topic is the name. "
        "A topic that ends in /compressed carries CompressedImage",
    )
    transport: str = _setting(
        RAW, "raw, or compressed: subscribe to <topic>/compressed of every camera"
    )
    image_reliability: str = _setting(
        "best_effort", "QoS of the image subscriptions: best_effort (sensor data) or reliable"
    )
    queries: tuple[str, ...] = _setting(
        ("",),
        "Standing queries, each plain words (asked as STVG) or a JSON object with text and, where "
        "needed, id, task, cameras, period, expiry, span and box (both in [0, 1])",
    )
    window_seconds: float = _setting(
        StreamConfig.window_seconds,
        "Length of the past that the model sees, seconds",
        low=0.1,
        high=3600.0,
    )
    history: float = _setting(
        0.9,
        "Share of the window to be seen before a standing video query is asked; 0: at once",
        low=0.0,
        high=1.0,
    )
    buffer_megabytes: int = _setting(
        StreamConfig.buffer_bytes // 2**20,
        "Most memory for images not yet encoded, a camera, MiB",
        low=1,
        high=65536,
    )
    reset_seconds: float = _setting(
        StreamConfig.reset_seconds,
        "A stamp that jumps back further starts a new stream, seconds",
        low=0.001,
        high=3600.0,
    )
    constrained: bool = _setting(
        GrounderConfig.constrained, "Let the model write only what its task's grammar allows"
    )
    max_new_tokens: int = _setting(
        GrounderConfig.max_new_tokens, "Longest answer, tokens", low=1, high=32768
    )
    stop_timeout: float = _setting(
        10.0, "Longest wait for a running inference when the node stops, seconds", low=0.1, high=600
    )
    no_match_threshold: float = _setting(
        GrounderConfig.no_match_threshold,
        "From this probability on, that nothing matches is a standing query's answer; 1: never",
        low=0.0,
        high=1.0,
    )
    min_confidence: float = _setting(
        GrounderConfig.min_confidence,
        "Answers below it are published but count as finding nothing",
        live=True,
        low=0.0,
        high=1.0,
    )
    association_iou: float = _setting(
        GrounderConfig.association_iou,
        "Mean IoU above which an answer continues a track",
        live=True,
        low=0.01,
        high=1.0,
    )
    track_timeout: float = _setting(
        GrounderConfig.track_timeout_seconds,
        "A track lost for so long is dropped, seconds",
        live=True,
        low=0.01,
        high=3600.0,
    )
    event_gap: float = _setting(
        GrounderConfig.event_gap_seconds,
        "Two spans closer than this are one event, seconds",
        live=True,
        low=0.01,
        high=3600.0,
    )
    default_period: float = _setting(
        1.0, "How often a new query without a period is asked, s", live=True, low=0.01, high=3600.0
    )
    max_frame_rate: float = _setting(
        15.0,
        "Images beyond this rate are skipped, Hz by stamp; 0: none",
        live=True,
        low=0,
        high=1e3,
    )
    overlay_quality: int = _setting(80, "JPEG quality of the overlay", live=True, low=1, high=100)
    log_period: float = _setting(
        5.0, "A repeated warning is logged this often, seconds", live=True, low=0.1, high=3600.0
    )

    def __post_init__(self) -> None:
        for name, allowed in (("transport", TRANSPORTS), ("image_reliability", RELIABILITIES)):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} {value!r}; expected one of {', '.join(allowed)}")
        parse_cameras(self.cameras, self.transport)

    @property
    def camera_sources(self) -> tuple[CameraSource, ...]:
        return parse_cameras(self.cameras, self.transport)

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
            min_confidence=self.min_confidence,
            association_iou=self.association_iou,
            track_timeout_seconds=self.track_timeout,
            event_gap_seconds=self.event_gap,
        )


@dataclass(frozen=True)
class CameraSource:
    """One camera: its name in queries and results, and its image topic before remapping.

    ``suffix`` is put behind the resolved topic, so that a remapping of the base topic also moves
    the compressed one, as image_transport does it.
    """

    name: str
    topic: str
    compressed: bool
    suffix: str = ""


def parse_cameras(entries: Iterable[str], transport: str) -> tuple[CameraSource, ...]:
    """The parameter ``cameras`` -> its cameras; ConfigError for none, an empty or a double name."""
    sources: list[CameraSource] = []
    for entry in filter(None, (entry.strip() for entry in entries)):
        name, separator, topic = (part.strip() for part in entry.partition("="))
        if not separator:
            name, topic = name.strip("/"), name
        if not name or not topic:
            raise ConfigError(f"camera {entry!r}; expected 'topic' or 'name=topic'")
        if name in (source.name for source in sources):
            raise ConfigError(f"two cameras {name!r}; expected a name for each", "use 'name=topic'")
        is_compressed = topic.endswith("/" + COMPRESSED)
        suffix = "" if is_compressed or transport == RAW else "/" + COMPRESSED
        sources.append(CameraSource(name, topic, is_compressed or bool(suffix), suffix))
    if not sources:
        raise ConfigError(
            "no camera; expected at least one image topic", "set the parameter `cameras`"
        )
    return tuple(sources)


def declare(node: Node) -> NodeParameters:
    """Declare every parameter with its words and range, and read them. Raises ConfigError."""
    entries = [(f.name, _to_ros(f.default), _descriptor(f)) for f in fields(NodeParameters)]
    try:
        node.declare_parameters("", entries)
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise ConfigError((str(error)) + "; expected a value of its type and range") from error
    return NodeParameters(
        **{f.name: _from_ros(node.get_parameter(f.name).value) for f in fields(NodeParameters)}
    )


def changed(current: NodeParameters, new: Iterable[Parameter]) -> NodeParameters:
    """``current`` with the changes a set request asks for; other nodes' names are passed over.

    Raises ConfigError where a value cannot work.
    """
    known = {f.name for f in fields(NodeParameters)}
    return replace(current, **{p.name: _from_ros(p.value) for p in new if p.name in known})


def refusal(error: ConfigError) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=str(error))


def _descriptor(entry: Field[Any]) -> ParameterDescriptor:
    words = entry.metadata
    descriptor = ParameterDescriptor(description=words["description"], read_only=not words["live"])
    if words["low"] is not None:
        if isinstance(entry.default, int):
            bounds = IntegerRange(from_value=int(words["low"]), to_value=int(words["high"]), step=1)
            descriptor.integer_range.append(bounds)
        else:
            low, high = float(words["low"]), float(words["high"])
            descriptor.floating_point_range.append(
                FloatingPointRange(from_value=low, to_value=high, step=0.0)
            )
    return descriptor


def _to_ros(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _from_ros(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value
