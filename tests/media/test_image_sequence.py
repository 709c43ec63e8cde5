"""The order of numbered images, and what is noted about their numbers."""

from __future__ import annotations

import random

import pytest

from llava_st_ros.media.image_sequence import natural_order


def named(pattern: str, numbers: list[int]) -> list[str]:
    return [pattern.format(number) for number in numbers]


def test_numbers_are_compared_as_numbers() -> None:
    names = named("frame_{}.png", list(range(1, 31)))
    shuffled = random.Random(0).sample(names, len(names))
    sequence = natural_order(shuffled)
    assert list(sequence.names) == names
    assert len(sequence.notes) == 1
    assert "numbers of different widths" in sequence.notes[0]


@pytest.mark.parametrize(
    "names",
    [
        named("{:04d}.png", list(range(30))),
        named("{:04d}.png", list(range(0, 300, 10))),  # every tenth frame
        named("scene2_{:05d}_left.jpg", list(range(7, 30))),
        named("{}.png", [1700000000123, 1700000000251, 1700000000383, 1700000000490]),
        ["a.png", "b.png", "c.png"],
        ["1.png", "2.png"],
    ],
)
def test_usual_names_have_no_note(names: list[str]) -> None:
    assert natural_order(names[::-1]).names == tuple(names)
    assert natural_order(names).notes == ()


def test_gaps_are_counted() -> None:
    names = named("{:03d}.png", [1, 2, 3, 7, 8, 9, 11])
    assert natural_order(names).notes == (
        "4 numbers are missing, the first after 003.png; the images are taken as evenly spaced in "
        "time",
    )
    tenths = named("{:03d}.png", [0, 10, 20, 50, 60])
    assert natural_order(tenths).notes[0].startswith("2 numbers are missing, the first after 020")


def test_mixed_widths_and_repeated_numbers_are_noted() -> None:
    sequence = natural_order(["01.png", "1.png", "2.png", "10.png", "03.png"])
    assert sequence.names == ("01.png", "1.png", "2.png", "03.png", "10.png")
    notes = " | ".join(sequence.notes)
    assert "numbers of different widths" in notes
    assert "1 images have the number of another one, the first after 01.png" in notes
    assert "6 numbers are missing, the first after 03.png" in notes


def test_series_are_noted() -> None:
    sequence = natural_order([*named("left_{}.png", [1, 2]), *named("right_{}.png", [1, 2])])
    assert sequence.names == ("left_1.png", "left_2.png", "right_1.png", "right_2.png")
    assert (
        "2 series follow one another; the series begin with left_1.png, right_1.png"
        in (sequence.notes[0])
    )
