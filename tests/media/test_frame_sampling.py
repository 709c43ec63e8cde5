"""Windows of frames that are spread evenly over footage."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llava_st_ros.media.frame_sampling import frame_indices, sample_frames
from llava_st_ros.records import Frame


class Footage:
    """``count`` frames whose pixels are their index; the container announces ``length``."""

    name, dropped, problem, notes = "footage", 0, "", ()

    def __init__(self, count: int, length: int | None) -> None:
        self.length, self._count, self.read = length, count, 0

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            self.read += 1
            yield Frame(np.full((2, 2, 3), index, np.uint8), index * 40)


def value(image: np.ndarray) -> np.ndarray:
    return image[0, 0, :1]


def test_frames_are_sampled_as_published() -> None:
    # By hand: 10 + round(i / 3 * 7), i = 0..3; halves are rounded to even.
    assert frame_indices(10, 17, 4) == [10, 12, 15, 17]
    assert frame_indices(0, 1, 3) == [0, 0, 1]
    assert frame_indices(0, 299, 100)[::33] == [0, 100, 199, 299]


def test_a_wrong_frame_count_of_the_container_is_corrected() -> None:
    for length in (10, 7, 20, None):
        sample = sample_frames(Footage(10, length), 4, value)
        assert sample.indices == (0, 3, 6, 9)
        assert {index: int(image[0]) for index, image in sample.images.items()} == {
            0: 0,
            3: 3,
            6: 6,
            9: 9,
        }
        assert sample.stamps == tuple(range(0, 400, 40))


def test_a_crop_is_read_up_to_its_last_frame() -> None:
    footage = Footage(10, 10)
    sample = sample_frames(footage, 3, value, crop=(2, 6))
    assert sample.indices == (2, 4, 6) and sorted(sample.images) == [2, 4, 6]
    assert footage.read == 7 and len(sample.stamps) == 7


def test_a_crop_past_the_end_lacks_frames() -> None:
    sample = sample_frames(Footage(5, 5), 3, value, crop=(2, 6))
    assert sample.indices == (2, 4, 6) and sorted(sample.images) == [2, 4]
    assert len(sample.stamps) == 5
