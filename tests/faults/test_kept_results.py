"""``llava-st ground`` keeps what was done when it is ended early or the disk is full."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from llava_st_ros.cli import ground
from llava_st_ros.cli.__main__ import main
from llava_st_ros.errors import DataError
from llava_st_ros.media import overlay, pictures
from llava_st_ros.media.sources import ImageFolderSource
from llava_st_ros.records import Frame

pytestmark = pytest.mark.slow
RESULTS = {"tracks.jsonl", "events.jsonl", "answers.jsonl"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 images, two seconds at 10 per second."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(20):
        image = np.full((48, 64, 3), 90, np.uint8)
        image[20:30, i : i + 10] = (40, 40, 220)
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)
    return folder


class EndedSource(ImageFolderSource):
    """A folder of images whose reading ends with ``error`` after 15 images."""

    error: BaseException

    def __iter__(self) -> Iterator[Frame]:
        for number, frame in enumerate(super().__iter__()):
            if number == 15:
                raise self.error
            yield frame


def run(images: Path, model: Path, *arguments: object) -> int:
    query = ("--query", "the square moves", "--task", "TVG", "--window", "0.5", "--period", "0.2")
    given = ("ground", "--images", images, "--model", model, *query, *arguments)
    return main([str(argument) for argument in given])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            KeyboardInterrupt(),
            130,
            "llava-st: interrupted: the {} answers of the first 1.4 s were ",
        ),
        (DataError("x.png is damaged"), 2, "llava-st: x.png is damaged; the {} answers of the "),
        (MemoryError(), 2, "llava-st: out of memory"),
    ],
)
def test_a_run_that_is_ended_early_keeps_its_answers(
    images: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch, capsys, error, code, said
) -> None:
    """Injected: Ctrl-C, a damaged image, or missing memory in the middle of llava-st ground.
    Published: the results so far, in the files and as JSON.
    Logged: one line with the number of answers and the folder.
    """
    monkeypatch.setattr(EndedSource, "error", error, raising=False)
    monkeypatch.setattr(ground, "_source", lambda args: EndedSource(args.images, 10.0))
    out = tmp_path / "out"
    assert run(images, random_checkpoint, "--out", out, "--json") == code
    printed = capsys.readouterr()
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) > 2
    assert {path.name for path in out.iterdir()} == RESULTS
    result = json.loads(printed.out)
    assert result["answers"] == answers
    assert (result["complete"], result["frames"]) == (False, 15)
    last = printed.err.splitlines()[-1]
    assert last.startswith(said.format(len(answers)))
    kept = f"the {len(answers)} answers of the first 1.4 s were written to {out}"
    assert kept in printed.err


def test_a_run_without_an_answer_leaves_the_results_of_an_earlier_one(
    images: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Injected: Ctrl-C before the first answer.
    Published: the results of an earlier run are unchanged.
    Logged: one line.
    """

    class AtOnce(EndedSource):
        error = KeyboardInterrupt()

        def __iter__(self) -> Iterator[Frame]:
            raise self.error

    (tmp_path / "answers.jsonl").write_text("earlier\n")
    monkeypatch.setattr(ground, "_source", lambda args: AtOnce(args.images, 10.0))
    assert run(images, random_checkpoint, "--out", tmp_path) == 130
    assert capsys.readouterr().err == "llava-st: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]
    assert (tmp_path / "answers.jsonl").read_text() == "earlier\n"


def test_a_full_disk_leaves_the_earlier_results_and_prints_the_new_ones(
    images: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Injected: a full disk while the results are written.
    Published: earlier files are unchanged; the new results on stdout.
    Logged: one line with the folder and the reason.
    """
    for name in RESULTS:
        (tmp_path / name).write_text("earlier\n")

    def fail(path: Path, values: object) -> None:
        path.write_text("hal")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("llava_st_ros.evaluation.recording.write_json_lines", fail)
    assert run(images, random_checkpoint, "--out", tmp_path) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == (
        f"llava-st: cannot write the results to {tmp_path}: No space left on device; the results "
        "were printed instead"
    )
    assert json.loads(printed.out)["answers"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        RESULTS, "earlier\n"
    )


def test_results_are_complete_before_the_drawing_starts(
    images: Path, random_checkpoint: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Injected: Ctrl-C while the overlay is drawn.
    Published: complete results; an earlier overlay is unchanged.
    Logged: one line which says that the results are complete.
    """

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "draw", interrupt)
    overlay_file = tmp_path / "o.mp4"
    overlay_file.write_text("earlier")
    assert run(images, random_checkpoint, "--out", tmp_path, "--overlay", overlay_file) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "llava-st: interrupted while drawing: the results are complete"
    assert {path.name for path in tmp_path.iterdir()} == {*RESULTS, "o.mp4"}
    assert overlay_file.read_text() == "earlier"


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_that_the_disk_cuts_off_is_not_left(
    tmp_path: Path, suffix: str, monkeypatch, capfd
) -> None:
    """Injected: a disk that is full before the overlay video is complete, of which OpenCV says
        nothing.
    Published: an earlier video is unchanged, no part of the new one is left.
    Logged: one line with the remedy.
    """
    path = tmp_path / f"o{suffix}"
    path.write_text("earlier")
    random = np.random.default_rng(0)

    def write() -> None:
        with overlay.VideoWriter(path, 10.0) as writer:
            for _ in range(30):
                writer.write(random.integers(0, 255, (48, 64, 3), dtype=np.uint8))

    real = overlay.VideoWriter._check_complete

    def cut(self: overlay.VideoWriter) -> None:
        os.truncate(self._part, self._part.stat().st_size // 2)
        real(self)

    monkeypatch.setattr(overlay.VideoWriter, "_check_complete", cut)
    with pytest.raises(DataError, match="of 30 frames not all can be read back; free disk space"):
        write()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    write()
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 30
    assert capfd.readouterr().err == ""  # nothing of OpenCV's and FFmpeg's own
