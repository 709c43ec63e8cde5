"""The share of a camera's images that arrive, judged by their stamps."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticStatus

from llava_st_ros.ros.arrival_rate import ArrivalMeter, ArrivalRate
from llava_st_ros.ros.diagnostics import CameraHealth, camera_status
from llava_st_ros.ros.intake import IntakeCounts

SECOND = 10**9


def measure(hz: float, arriving: float, jitter: float = 0.0, seconds: float = 20.0) -> ArrivalRate:
    rng, meter = random.Random(1), ArrivalMeter()
    for i in range(round(hz * seconds)):
        if rng.random() < arriving:
            meter.add(round((100 + (i + rng.uniform(-jitter, jitter)) / hz) * SECOND))
    rate = meter.rate
    assert rate is not None
    return rate


@pytest.mark.parametrize("hz", [5.0, 10.0, 30.0])
@pytest.mark.parametrize("arriving", [1.0, 0.7, 0.3])
@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_share_of_lost_images_is_estimated(hz: float, arriving: float, jitter: float) -> None:
    rate = measure(hz, arriving, jitter)
    assert rate.stamped == pytest.approx(hz, rel=0.15)
    assert rate.share == pytest.approx(arriving, abs=0.15)
    assert (rate.share < 0.9) == (arriving < 1)


def test_pauses_and_jumps_of_the_stamps_are_not_losses() -> None:
    meter = ArrivalMeter()
    for start in (1000, 1060, 20):  # two runs with a pause between them, then another clock
        for i in range(20):
            meter.add(start * SECOND + i * SECOND // 10)
        assert meter.rate is not None
        assert meter.rate.share == 1.0
        assert meter.rate.stamped == pytest.approx(10.0)


def test_heavy_loss_is_noticed_with_the_few_images_that_arrive() -> None:
    meter = ArrivalMeter()
    for tenth in (0, 3, 4, 16, 41, 50, 88):  # 7 of 89 images at 10 Hz
        meter.add(tenth * SECOND // 10)
    assert meter.rate is not None
    assert meter.rate.stamped == pytest.approx(10.0)
    assert meter.rate.share == pytest.approx(6 / 88)


def test_few_images_give_no_estimate() -> None:
    meter = ArrivalMeter()
    for i in range(5):
        meter.add(i * SECOND)
        meter.add(i * SECOND)  # frozen stamps have no interval
    assert meter.rate is None


def test_diagnostics_warn_when_images_get_lost() -> None:
    def status(arrivals: ArrivalRate | None) -> DiagnosticStatus:
        health = CameraHealth(
            "front", "/front", 1, "best_effort", 0.1, IntakeCounts(), IntakeCounts(), 1.0, "",
            arrivals,
        )  # fmt: skip
        return camera_status("/grounding", health, 2.0)

    lossy = status(ArrivalRate(7.0, 10.0))
    assert lossy.level == DiagnosticStatus.WARN
    assert lossy.message == "7.0 of 10.0 Hz arrive"
    assert {v.key: v.value for v in lossy.values}["reliability"] == "best_effort"
    assert status(ArrivalRate(9.8, 10.0)).level == DiagnosticStatus.OK
    assert status(None).level == DiagnosticStatus.OK


def test_a_camera_that_is_uneven_by_itself_has_lost_nothing() -> None:
    rng, meter, stamp = random.Random(1), ArrivalMeter(), 10**12
    for _ in range(64):  # a driver that waits 50 ms, and at times longer
        stamp += round(rng.choice((0.05, 0.05, 0.05, 0.06, 0.07)) * SECOND)
        meter.add(stamp)
    assert meter.rate is not None
    assert meter.rate.share > 0.95
    assert meter.rate.arrived == pytest.approx(17.9, rel=0.05)
