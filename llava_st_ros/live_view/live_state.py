"""What the page shows: written by the thread that follows the node, read by the page's requests.

Everything has the version at which it changed last. A page asks for what has changed since a
version, and asks again once it has shown that: a slow page gets the newest image, and no backlog.
What is as before has no new version. Everything is bounded when it is written.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from llava_st_ros.errors import FrameError
from llava_st_ros.live_view.bounds import MAX_NAME, MAX_QUERIES, bounded, bounded_tracks, cut
from llava_st_ros.live_view.picture_choice import Picture, PictureChoice

MAX_CAMERAS, MAX_EVENTS, MAX_QUESTIONS = 64, 200, 20  # the oldest are forgotten
WATCHED_S = 4.0  # how long a page counts as watching after a request
Values = Mapping[str, Any]


class JpegOnce:
    """An image that is encoded when it is first sent, once for all pages. Thread-safe.

    Args:
        encode: Returns the JPEG; raises FrameError.
        on_encoded: Called with the error, or None, once.
    """

    def __init__(
        self, encode: Callable[[], bytes], on_encoded: Callable[[FrameError | None], None]
    ) -> None:
        self._encode: Callable[[], bytes] | None = encode
        self._on_encoded = on_encoded
        self._lock = threading.Lock()
        self._data = b""

    def __call__(self) -> bytes:
        """Return the JPEG; nothing if the image is unreadable."""
        with self._lock:
            encode, self._encode = self._encode, None  # frees the message, too
            if encode is not None:
                problem = None
                try:
                    self._data = encode()
                except FrameError as error:
                    problem = error
                self._on_encoded(problem)
            return self._data


@dataclass
class _Camera:
    """A camera, and the versions at which parts of it changed."""

    choice: PictureChoice
    picture: Picture | None = None
    picture_version: int = 0
    number: int = 0  # of images that were shown
    tracks: Values | None = None
    tracks_version: int = 0
    arrival: float | None = None
    received: int = 0
    unreadable: int = 0
    problem: str = ""
    health: Values = field(default_factory=dict)
    health_version: int = 0


@dataclass
class _Versioned:
    """A bounded number of values by key, each with the version at which it changed."""

    limit: int
    values: dict[Any, tuple[int, Any]] = field(default_factory=dict)

    def put(self, key: Any, value: Any, version: int) -> None:
        self.values.pop(key, None)
        self.values[key] = version, value
        if len(self.values) > self.limit:
            del self.values[next(iter(self.values))]

    def get(self, key: Any) -> Any:
        return self.values[key][1] if key in self.values else None

    def since(self, version: int) -> list[Any]:
        return [value for changed, value in self.values.values() if changed > version]


@dataclass(frozen=True)
class Update:
    """What has changed: values, and the images of some cameras in the order of their ``jpeg``."""

    values: dict[str, Any]
    images: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The length of the JSON (32 bits, big-endian), the JSON, the images one after another."""
        text = json.dumps(self.values, allow_nan=False).encode()
        return b"".join((len(text).to_bytes(4, "big"), text, *self.images))


class LiveState:
    """What a node has published last, the images that are shown, and the questions.

    Args:
        max_rate: Images per second and camera.
        clock: Returns the current time in seconds.
    """

    def __init__(self, max_rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_rate, self._clock = max_rate, clock
        self._changed = threading.Condition(threading.RLock())
        self._epoch = uuid.uuid4().hex
        self._version = 0
        self._is_closed = False
        self._requests, self._last_request = 0, -WATCHED_S
        self._cameras: dict[str, _Camera] = {}
        self._events = _Versioned(MAX_EVENTS)
        self._questions = _Versioned(MAX_QUESTIONS)
        self._parts = _Versioned(8)  # "node", "queries"

    # What the page reads.

    @property
    def is_watched(self) -> bool:
        """Whether a page asked for updates in the last seconds."""
        with self._changed:
            return bool(self._requests) or self._clock() - self._last_request < WATCHED_S

    def update(self, epoch: str, after: int, timeout: float) -> Update:
        """Wait until something has changed, and return what has.

        Args:
            epoch: That of the page's last update; if it is not the current one, everything is new.
            after: The version of the page's last update.
            timeout: Seconds after which there is an update in any case.
        """
        with self._changed:
            self._requests += 1
            try:
                self._changed.wait_for(
                    lambda: self._is_closed or self._epoch != epoch or self._version > after,
                    timeout,
                )
            finally:
                self._requests -= 1
                self._last_request = self._clock()
            is_reset = self._epoch != epoch
            after = 0 if is_reset else after
            pictures: dict[str, Callable[[], bytes]] = {}
            for name, camera in self._cameras.items():
                if camera.picture is not None and camera.picture_version > after:
                    pictures[name] = camera.picture.jpeg
            values = {
                "epoch": self._epoch,
                "version": self._version,
                "reset": is_reset,
                **dict(self._parts.since(after)),
                "events": self._events.since(after),
                "questions": self._questions.since(after),
                "cameras": [
                    self._camera_values(name, camera, after)
                    for name, camera in sorted(self._cameras.items())
                ],
            }
        images = {name: jpeg() for name, jpeg in pictures.items()}  # encodes, without the lock
        with self._changed:
            for entry in values["cameras"]:
                camera = self._camera(entry["name"])
                entry["unreadable"], entry["problem"] = camera.unreadable, camera.problem
                entry["jpeg"] = len(images.get(entry["name"], b""))
        return Update(values, tuple(images[name] for name in sorted(images)))

    def _camera_values(self, name: str, camera: _Camera, after: int) -> dict[str, Any]:
        age = None if camera.arrival is None else self._clock() - camera.arrival
        values: dict[str, Any] = {
            "name": name,
            "age": age,
            "number": camera.number,
            "stamp": camera.picture.stamp if camera.picture else None,
            "received": camera.received,
        }
        if camera.health_version > after:
            values["health"] = camera.health
        if camera.tracks_version > after:
            values["tracks"] = camera.tracks
        return values

    # What follows the node writes.

    def set_part(self, name: str, value: Any) -> None:
        """Replace a part of the page."""
        value = bounded(value)
        with self._changed:
            self._put_part(name, value)

    def set_queries(self, queries: Sequence[Values]) -> None:
        """Replace the standing queries. The first MAX_QUERIES are shown."""
        shown = [bounded(query) for query in queries[:MAX_QUERIES]]
        with self._changed:
            self._put_part("queries", shown)
            self._put_part("hidden_queries", len(queries) - len(shown))

    def add_question(self, question: Values) -> None:
        """Add a question, or replace the one with the same number."""
        question = bounded(question)
        with self._changed:
            self._questions.put(question["number"], question, self._advance())

    def set_health(self, cameras: Mapping[str, Values]) -> None:
        """Replace the health of the first MAX_CAMERAS cameras.

        Others are kept, since a node may forget them.
        """
        shown = {name: bounded(cameras[name]) for name in islice(cameras, MAX_CAMERAS)}
        with self._changed:
            for name, health in shown.items():
                camera = self._camera(name)
                if camera.health != health:
                    camera.health, camera.health_version = health, self._advance()

    def add_event(self, event: Values) -> None:
        event = bounded(event)
        with self._changed:
            if self._events.get(event["event_id"]) != event:
                self._events.put(event["event_id"], event, self._advance())

    def add_tracks(self, tracks: Values) -> None:
        tracks = bounded_tracks(tracks)
        with self._changed:
            self._camera(tracks["camera"]).choice.add_tracks(tracks)
            self._show(tracks["camera"])

    def add_image(self, camera: str, stamp: int, encode: Callable[[], bytes]) -> None:
        """Add an image.

        Args:
            camera: The camera.
            stamp: ns.
            encode: Returns it as a JPEG, or raises FrameError.
        """

        camera = cut(camera, MAX_NAME)

        def report(error: FrameError | None) -> None:
            with self._changed:
                shown = self._camera(camera)
                shown.unreadable += error is not None
                shown.problem = str(error or "")

        with self._changed:
            shown = self._camera(camera)
            shown.arrival = self._clock()
            shown.received += 1
            shown.choice.add_picture(Picture(stamp, JpegOnce(encode, report)))
            self._show(camera)

    def refresh(self) -> None:
        """Show what waited for tracks that did not come. Call it several times per second."""
        with self._changed:
            for camera in self._cameras:
                self._show(camera)

    def clear(self) -> None:
        """Forget the tracks and events: the node has ended."""
        with self._changed:
            if not self._events.values and not any(c.tracks for c in self._cameras.values()):
                return
            self._epoch = uuid.uuid4().hex
            self._events.values.clear()
            for camera in self._cameras.values():
                camera.choice = PictureChoice(self._max_rate, self._clock)
                camera.tracks = None
            self._advance()

    def close(self) -> None:
        """Let no request wait any longer."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _put_part(self, name: str, value: Any) -> None:
        part = self._parts.get(name)
        if part is None or part[1] != value:
            self._parts.put(name, (name, value), self._advance())

    def _show(self, name: str) -> None:
        camera = self._cameras[name]
        shown = camera.choice.next()
        if shown is None:
            return
        if shown.picture is not None:
            camera.picture, camera.picture_version = shown.picture, self._advance()
            camera.number += 1
        if shown.tracks != camera.tracks:
            camera.tracks, camera.tracks_version = shown.tracks, self._advance()

    def _camera(self, name: str) -> _Camera:
        name = cut(name, MAX_NAME)
        camera = self._cameras.get(name)
        if camera is None:
            camera = self._cameras[name] = _Camera(PictureChoice(self._max_rate, self._clock))
            if len(self._cameras) > MAX_CAMERAS:
                del self._cameras[next(iter(self._cameras))]
            self._advance()
        return camera

    def _advance(self) -> int:
        self._version += 1
        self._changed.notify_all()
        return self._version
