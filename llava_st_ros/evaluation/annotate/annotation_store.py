"""The annotations that the page edits, and the file that they are written to after every change."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from llava_st_ros.annotations.annotation_file import (
    MAX_BYTES,
    read_annotations,
    write_annotations,
)
from llava_st_ros.annotations.records import AnnotatedCamera, GroundTruth
from llava_st_ros.atomic_files import require_writable_file
from llava_st_ros.errors import DataError, LlavaStError, reason_of, shown
from llava_st_ros.evaluation.annotate.page_values import (
    PageObject,
    PageQuery,
    object_from_json,
    query_from_json,
    topic_of,
    with_objects,
)
from llava_st_ros.files.raw import read_bytes

_Value = TypeVar("_Value")


class ConflictError(LlavaStError):
    """A change was made to annotations that another tab or program has changed since."""


@dataclass(frozen=True)
class _Content:
    """All annotations. Values are never modified: a change makes a new content."""

    cameras: Mapping[str, AnnotatedCamera]
    objects: Mapping[str, PageObject]
    queries: Mapping[str, PageQuery]

    @classmethod
    def of(cls, ground_truth: GroundTruth) -> _Content:
        return cls(
            {camera.topic: camera for camera in ground_truth.cameras},
            {value.id: PageObject(value) for value in ground_truth.objects},
            {value.id: PageQuery(value, value.no_match) for value in ground_truth.queries},
        )

    def ground_truth(self) -> GroundTruth:
        """What is complete, as it is written to the file."""
        return GroundTruth(
            tuple(self.cameras.values()),
            tuple(value.value for value in self.objects.values()),
            tuple(value.value for value in self.queries.values() if not value.missing),
        )

    def incomplete(self) -> dict[str, str]:
        """By the id of each query that is not written, what it lacks."""
        missing = {key: query.missing for key, query in self.queries.items()}
        return {key: reason for key, reason in missing.items() if reason}


class AnnotationStore:
    """The annotations of one bag. Methods may be called from several threads.

    Every change has a revision. A page that sends a change names the revision that it has; if
    another tab has made a change since, or another program has changed the file, ConflictError is
    raised and nothing is changed. What cannot be written stays in memory, and is written with the
    next change or by ``save``.

    Args:
        path: The annotation file; it need not exist.

    Attributes:
        path: The annotation file, symbolic links resolved.
        problem: Why the newest annotations are not in the file; "" if they are.
        notes: What was changed when the file was read, one line for each kind.

    Raises:
        DataError: The file cannot be read or is not an annotation file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # a link is kept, and its target replaced
        self.problem = ""
        self.notes: tuple[str, ...] = ()
        self._lock = Lock()
        self._revision = 1
        self._is_written = True
        self._known_file = _File(None, None)
        self._content = _Content({}, {}, {})
        self._read()
        try:
            self._check_is_writable()
            require_writable_file(self.path)
        except (OSError, ValueError, LlavaStError) as error:
            self.problem = self._not_written(error)

    def to_json(self, *, discard: bool = False) -> dict[str, Any]:
        """Return all annotations as the page's JSON.

        If another program has changed the file, it is read again first, unless there are changes
        that are not written yet.

        Args:
            discard: Read the file again even then.

        Raises:
            DataError: The file was changed and cannot be read.
        """
        with self._lock:
            if self._has_changed() and (discard or self._is_written):
                self._read()
                self._revision += 1
            content = self._content
            return {
                **self._status(),
                "objects": [
                    value.to_json(content.cameras[value.value.topic])
                    for value in content.objects.values()
                ],
                "notes": list(self.notes),
                "queries": [value.to_json() for value in content.queries.values()],
                "cameras": {
                    topic: [camera.width, camera.height]
                    for topic, camera in content.cameras.items()
                },
            }

    def status(self) -> dict[str, Any]:
        """Return the revision, what is incomplete, why the file is not up to date, and whether
        another program has changed it.
        """
        with self._lock:
            return {"hasChanged": self._has_changed(), **self._status()}

    def apply(
        self,
        changes: Mapping[str, Any],
        revision: int,
        cameras: Mapping[str, AnnotatedCamera],
        *,
        force: bool = False,
    ) -> dict[str, Any]:
        """Change objects and queries, and write the file.

        Args:
            changes: By "objects" and "queries", the new value of each changed one by its id; None
                removes it.
            revision: The revision that the changes were made to.
            cameras: The cameras of the bag by topic.
            force: Make the changes to whatever the annotations are now.

        Returns:
            As ``status``, without whether the file has changed.

        Raises:
            ConflictError: The annotations have another revision, or the file was changed.
            LlavaStError: A value is invalid. Nothing is changed.
        """
        with self._lock:
            changed = self._has_changed()
            if not force:
                if changed:
                    raise ConflictError(f"{self.path} was changed by another program")
                if revision != self._revision:
                    raise ConflictError("the annotations were changed in another tab or window")
            elif changed and self._is_written:
                self._read()  # what the other program wrote is kept
            content = _changed(self._content, changes, cameras)
            ground_truth = content.ground_truth()
            self._content, self._is_written = content, False
            self._revision += 1
            self._write(ground_truth)
            return self._status()

    def save(self) -> dict[str, Any]:
        """Write what could not be written before. Returns as ``apply``."""
        with self._lock:
            if not self._is_written:
                self._write(self._content.ground_truth())
            else:
                self.problem = ""
            return self._status()

    def incomplete(self) -> dict[str, str]:
        """Why queries are not in the file, by their text or id."""
        with self._lock:
            queries = self._content.queries
            return {
                queries[key].value.text or key: reason
                for key, reason in self._content.incomplete().items()
            }

    def rescue(self) -> Path | None:
        """Write annotations that are not in the file to a temporary file; None if all are."""
        with self._lock:
            if self._is_written:
                return None
            folder = Path(tempfile.mkdtemp(prefix="llava_st_annotations_"))
            path = folder / self.path.name
            write_annotations(path, self._content.ground_truth())
            return path

    def _status(self) -> dict[str, Any]:
        return {
            "revision": self._revision,
            "isWritten": self._is_written,
            "problem": self.problem,
            "incomplete": self._content.incomplete(),
        }

    def _read(self) -> None:
        file = self._known_file.now(self.path)
        ground_truth = read_annotations(self.path) if file.exists else GroundTruth(())
        self._content, self._known_file = _Content.of(ground_truth), file
        self.notes = ground_truth.notes
        self._is_written, self.problem = True, ""

    def _write(self, ground_truth: GroundTruth) -> None:
        try:
            self._check_is_writable()
            write_annotations(self.path, ground_truth)
            self._known_file = self._known_file.now(self.path)
        except (OSError, ValueError, LlavaStError) as error:
            self.problem = self._not_written(error)
            return
        self._is_written, self.problem = True, ""

    def _check_is_writable(self) -> None:
        # Replacing a file needs no permission to write it: a read-only file would not stay.
        if self.path.exists() and not (
            os.access(self.path, os.W_OK) and self.path.stat().st_mode & 0o222
        ):
            raise DataError(f"{self.path} is read-only")

    def _not_written(self, error: Exception) -> str:
        if isinstance(error, LlavaStError):
            return str(error)
        return f"{self.path} cannot be written: {reason_of(error)}"

    def _has_changed(self) -> bool:
        """Whether the file has another content; one that was deleted is to be written again."""
        now = self._known_file.now(self.path)
        if self._known_file.exists and not now.exists:
            self.problem, self._is_written = f"{self.path} was deleted", False
        elif now.digest != self._known_file.digest:
            return True
        self._known_file = now
        return False


@dataclass(frozen=True)
class _File:
    """What a file was when it was read or written.

    Attributes:
        state: Its inode, time of modification and size; None if there is none.
        digest: Of its content.
    """

    state: tuple[int, int, int] | None
    digest: bytes | None

    @property
    def exists(self) -> bool:
        return self.state is not None

    def now(self, path: Path) -> _File:
        """The file as it is now; its content is read only if its state differs."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return _File(None, None)
        except OSError as error:
            raise DataError(f"cannot read {path}: {reason_of(error)}") from error
        state = stat.st_ino, stat.st_mtime_ns, stat.st_size
        if state == self.state:
            return self
        data = read_bytes(path, DataError, max_bytes=MAX_BYTES)
        return _File(state, hashlib.sha256(data).digest())


def _changed(
    content: _Content, changes: Mapping[str, Any], cameras: Mapping[str, AnnotatedCamera]
) -> _Content:
    """Return the content after changes. Raises LlavaStError if a value is invalid."""
    known = {**cameras, **content.cameras}  # the file's sizes, if it has them
    objects = _merged(content.objects, _by_id(changes, "objects"), known, object_from_json)
    queries = _merged(content.queries, _by_id(changes, "queries"), known, query_from_json)
    topics = {key: value.value.topic for key, value in objects.items()}
    used = (*topics.values(), *(query.value.topic for query in queries.values()))
    used_cameras = {**content.cameras, **{topic: known[topic] for topic in used}}
    for key, query in queries.items():
        linked = query.value.objects
        present = [name for name in linked if topics.get(name) == query.value.topic]
        if len(present) < len(linked):
            queries[key] = with_objects(query, present)
    return _Content(used_cameras, objects, queries)


def _merged(
    values: Mapping[str, _Value],
    changes: Mapping[str, Any],
    cameras: Mapping[str, AnnotatedCamera],
    from_json: Callable[[Any, AnnotatedCamera], _Value],
) -> dict[str, _Value]:
    """Return values by id after changes."""
    merged = dict(values)
    for key, data in changes.items():
        if data is None:
            merged.pop(key, None)
        else:
            merged[key] = from_json(data, _camera(cameras, data))
    return merged


def _by_id(changes: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return the changes of a kind. Raises DataError."""
    values = changes.get(kind, {})
    if not isinstance(values, Mapping):
        raise DataError(f"{kind} is {shown(values)}; expected the changed ones by id")
    for key, data in values.items():
        if data is not None and (not isinstance(data, Mapping) or data.get("id") != key):
            raise DataError(f"{kind}: what was sent as {shown(key)} has another id")
    return values


def _camera(cameras: Mapping[str, AnnotatedCamera], data: Any) -> AnnotatedCamera:
    topic = topic_of(data)
    if topic not in cameras:
        raise DataError(f"topic {shown(topic)} is not in the bag, or not indexed yet")
    return cameras[topic]
