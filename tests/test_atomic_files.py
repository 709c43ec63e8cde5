"""Files and folders appear complete or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_st_ros.atomic_files import (
    atomic_file,
    atomic_folder,
    require_writable_file,
    staged_files,
    write_text,
)


def test_a_file_replaces_the_old_one_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "a.b.json"
    path.write_text("old")
    with atomic_file(path) as part:
        assert (
            part.parent == tmp_path and part.suffix == ".json"
        )  # writers choose a format by the suffix
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("partial", [True, False])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, error: BaseException, partial: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as part:
            if partial:
                part.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(OSError, match="No space left") as caught, atomic_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(path)
    with pytest.raises(BrokenPipeError) as pipe, atomic_file(path):
        raise BrokenPipeError(errno.EPIPE, "stdout is closed")
    assert pipe.value.filename is None


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "below" / "folder"
    with atomic_folder(path) as part:
        (part / "a").write_text("1")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["a"]

    def fail() -> None:
        with atomic_folder(path) as part:
            (part / "b").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [file.name for file in path.iterdir()] == ["a"]

    with atomic_folder(path) as part:
        (part / "c").write_text("3")
    assert [file.name for file in path.iterdir()] == ["c"]
    assert [folder.name for folder in path.parent.iterdir()] == ["folder"]


def test_the_old_folder_is_restored_if_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("")
    real = os.replace

    def fail_to_replace(source: Path, target: Path) -> None:
        if target == path and not (Path(source) / "old").exists():
            raise OSError("no")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_to_replace)
    with pytest.raises(OSError, match="no"), atomic_folder(path):
        pass
    assert [file.name for file in path.iterdir()] == ["old"]


def test_unfinished_folders_of_processes_that_ended_are_deleted(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    ended = tmp_path / f".folder-begun-by-{child.pid}"
    running = tmp_path / f".folder-begun-by-{os.getppid()}"
    foreign = tmp_path / ".folder-begun-by-hand"
    for folder in (ended, running, foreign):
        folder.mkdir()
    with atomic_folder(tmp_path / "folder"):
        pass
    assert not ended.exists() and running.exists() and foreign.exists()


def test_staged_files_replace_those_of_the_same_names_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "folder"
    replaced = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (replaced.append(Path(b).name), real(a, b)))
    with staged_files(folder, last="b") as stage:
        for name in "cba":
            (stage / name).write_text("1")
    assert replaced == ["a", "c", "b"]
    assert sorted(file.name for file in folder.iterdir()) == ["a", "b", "c"]

    def fail() -> None:
        with staged_files(folder) as stage:
            (stage / "a").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with staged_files(folder) as stage:
        (stage / "c").write_text("2")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "a": "1",
        "b": "1",
        "c": "2",
    }


def test_a_users_file_that_is_named_like_an_unfinished_one_is_kept(tmp_path: Path) -> None:
    neighbor, path = tmp_path / "film.part.mp4", tmp_path / "film.mp4"
    neighbor.write_text("the user's")
    require_writable_file(path)
    with atomic_file(path) as part:
        part.write_text("new")
    assert (neighbor.read_text(), path.read_text()) == ("the user's", "new")


def test_other_files_of_the_output_folder_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with staged_files(tmp_path) as stage:
        (stage / "answers.jsonl").write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "answers.jsonl"}
