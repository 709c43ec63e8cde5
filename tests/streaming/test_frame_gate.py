"""Which frames tracks are carried to, by stamp."""

from __future__ import annotations

import pytest

from llava_st_ros.streaming.frame_gate import TrackRates

MILLISECOND = 10**6


def due(rates: TrackRates, camera: str, *times: float) -> list[float]:
    """Return the times (ms) at which a frame is due."""
    return [t for t in times if rates.is_due(camera, round(t * MILLISECOND))]


def test_frames_are_thinned_by_the_stamps_of_their_camera() -> None:
    rates = TrackRates(10.0)
    assert due(rates, "a", 500, 550, 589, 590, 600, 679, 680, 900) == [500, 590, 680, 900]
    assert due(rates, "b", 901, 950, 1001) == [901, 1001]
    assert due(rates, "a", 900, 905, 100, 150, 200) == [900, 100, 200]  # its clock jumps back


@pytest.mark.parametrize(("rate", "expected"), [(0.0, []), (20.0, [0, 50]), (100.0, [0, 10, 50])])
def test_the_rate_may_be_changed(rate: float, expected: list[float]) -> None:
    rates = TrackRates(1.0)
    assert due(rates, "a", -5000, -4500) == [-5000]
    rates.max_rate = rate
    assert due(rates, "a", 0, 10, 15, 50) == expected
