"""One bag being annotated: its cameras and its annotations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from llava_st_ros.annotations.records import AnnotatedCamera
from llava_st_ros.errors import DataError, LlavaStError
from llava_st_ros.evaluation.annotate.annotation_store import AnnotationStore
from llava_st_ros.evaluation.annotate.recorded_camera import RecordedCamera
from llava_st_ros.media.bag_frames import BagFrames
from llava_st_ros.media.bags import Bag
from llava_st_ros.records import Task


class AnnotationSession:
    """What the page shows and edits. Methods may be called from several threads.

    Args:
        bag: The bag's folder or file.
        file: The annotation file; it need not exist.
        topic: Name of the image topic; None: all image topics, of which the page chooses.
        on_loss: As in ``RecordedCamera``.

    Attributes:
        topics: Names of the image topics that can be annotated.
        store: The annotations.

    Raises:
        DataError: The bag has no such topic or no images (the message lists its topics), or the
            annotation file cannot be read.
    """

    def __init__(
        self,
        bag: Path,
        file: Path,
        topic: str | None = None,
        on_loss: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.bag = bag
        self._recording = Bag(bag)
        self._recording_lock = Lock()
        self.topics = _image_topics(self._recording, topic)
        self.store = AnnotationStore(file)
        self._on_loss = on_loss
        self._cameras: dict[int, RecordedCamera] = {}
        self._lock = Lock()

    def description(self) -> dict[str, Any]:
        """Return what the page needs first, as JSON."""
        return {
            "bag": self.bag.resolve().name,
            "file": str(self.store.path),
            "topics": self.topics,
            "tasks": [task.value for task in Task],
        }

    def camera(self, number: int) -> RecordedCamera:
        """Return the camera ``topics[number]``.

        Raises:
            DataError: There is no such camera, or it cannot be read.
        """
        if not 0 <= number < len(self.topics):
            raise DataError(f"there is no camera {number}")
        with self._lock:
            if number not in self._cameras:
                frames = BagFrames(self._recording, self.topics[number], self._recording_lock)
                self._cameras[number] = RecordedCamera(frames, self._on_loss)
            return self._cameras[number]

    def camera_json(self, number: int) -> dict[str, Any]:
        """Return how far a camera is indexed, or its recording, as the page's JSON."""
        try:
            camera = self.camera(number)
        except LlavaStError as error:
            return {"problem": str(error)}
        camera.start()
        progress = camera.progress
        if progress.problem:
            return {"problem": progress.problem}
        recording = progress.recording
        if recording is None:
            return {"read": progress.read, "total": progress.total}
        return {
            "topic": camera.topic,
            "width": recording.width,
            "height": recording.height,
            "stamps": [str(stamp) for stamp in recording.stamps],
            "losses": list(recording.losses),
        }

    def sizes(self) -> dict[str, AnnotatedCamera]:
        """Return the cameras that are indexed by topic."""
        with self._lock:
            cameras = list(self._cameras.values())
        return {
            camera.topic: AnnotatedCamera(camera.topic, recording.width, recording.height)
            for camera in cameras
            if (recording := camera.progress.recording) is not None
        }

    def apply(self, request: Any) -> dict[str, Any]:
        """Make the changes that the page sent; see ``AnnotationStore.apply``."""
        changes, revision = request.get("changes"), request.get("revision")
        force = request.get("force", False)
        if not (isinstance(changes, dict) and type(revision) is int and isinstance(force, bool)):
            raise DataError("expected changes, a revision and force")
        return self.store.apply(changes, revision, self.sizes(), force=force)


def _image_topics(bag: Bag, topic: str | None) -> list[str]:
    """Return the name of the chosen topic, or of all image topics that have messages.

    Raises:
        DataError: There is none; the message lists the bag's topics.
    """
    names = list(dict.fromkeys(t.name for t in bag.image_topics if t.messages))
    if topic is not None or not names:
        return [bag.image_topic(topic).name]
    return names
