"""Curves of a training log: what is plotted, and invalid logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from llava_st_ros.cli.__main__ import main
from llava_st_ros.errors import DataError
from llava_st_ros.training.curves import draw_curves, make_figure, read_log


def line(stage: str, step: int, **values: Any) -> dict[str, Any]:
    fixed = {"minutes": 0.1, "norm": 1.0, "rate": step / 1000, "samples_per_second": 3.0}
    return {"stage": stage, "step": step, **fixed, **values}


LINES = [
    line("pictures", 20, loss=3.0, image_text=2.0),
    line("pictures", 40, loss=2.5, image_text=1.5, image_left=4.0),
    line("clips", 20, loss=1.25),
]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def as_json(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(values) + "\n" for values in lines)


def test_axes_show_the_losses_and_rate_of_each_stage(tmp_path: Path) -> None:
    figure = make_figure(read_log(write(tmp_path / "log.jsonl", as_json(LINES))))
    pictures, clips, picture_rates, clip_rates = figure.axes
    assert [axis.get_title() for axis in (pictures, clips)] == ["pictures", "clips"]
    curves = {c.get_label(): (list(c.get_xdata()), list(c.get_ydata())) for c in pictures.lines}
    assert curves == {
        "loss": ([20, 40], [3.0, 2.5]),
        "image_text": ([20, 40], [2.0, 1.5]),
        "image_left": ([40], [4.0]),
    }
    assert [list(c.get_ydata()) for c in clips.lines] == [[1.25]]
    assert [list(c.get_ydata()) for c in picture_rates.lines] == [[0.02, 0.04]]
    assert [list(c.get_xdata()) for c in clip_rates.lines] == [[20]]


def test_incomplete_last_line_is_skipped(tmp_path: Path) -> None:
    text = as_json(LINES)
    half = write(tmp_path / "log.jsonl", text + text[:30])
    assert read_log(half) == {"pictures": LINES[:2], "clips": LINES[2:]}


def test_png_can_be_decoded(tmp_path: Path) -> None:
    out = tmp_path / "curves.png"
    draw_curves(write(tmp_path / "log.jsonl", as_json(LINES)), out)
    image = cv2.imread(str(out))
    assert image is not None and image.shape[0] > 300 and image.shape[1] > 500
    assert image.std() > 5  # something is drawn
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (as_json(LINES)[:30], "is empty"),
        (
            as_json(LINES[:1]) + "half of a li\n" + as_json(LINES[1:]),
            "log.jsonl:2 is not valid JSON",
        ),
        ("[1, 2]\n", "log.jsonl:1"),
        ('{"step": 3, "loss": 1.0}\n', "log.jsonl:1"),
        ('{"stage": "a", "loss": 1.0}\n', "log.jsonl:1"),
        ('{"stage": "a", "step": 1, "loss": "low"}\n', "log.jsonl:1"),
        ('{"stage": "a", "step": 1, "loss": NaN}\n', "log.jsonl:1"),
    ],
)
def test_invalid_log_is_rejected(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError) as error:
        draw_curves(write(tmp_path / "log.jsonl", text), tmp_path / "curves.png")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "curves.png").exists()


def test_unreadable_log_and_unwritable_png_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        draw_curves(tmp_path / "missing.jsonl", tmp_path / "curves.png")
    log = write(tmp_path / "log.jsonl", as_json(LINES))
    with pytest.raises(DataError, match="no_folder"):
        draw_curves(log, tmp_path / "no_folder" / "curves.png")


def test_command_writes_a_png(tmp_path: Path) -> None:
    log, out = write(tmp_path / "log.jsonl", as_json(LINES)), tmp_path / "curves.png"
    assert main(["train", "curves", "--log", str(log), "--out", str(out)]) == 0
    assert cv2.imread(str(out)) is not None
