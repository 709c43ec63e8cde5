"""What must not be silent is told: mismatched QoS, no images. And whose clock counts."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from peer import Peer, raw
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from seeing import picture
from sensor_msgs.msg import CompressedImage, Image

from llava_st_ros import msg
from llava_st_ros.ros.conversions import stamp_from_msg, stamp_to_msg

pytestmark = pytest.mark.ros
SECOND = 10**9


def test_a_publisher_that_offers_too_little_is_named_with_both_policies(peer: Peer, start) -> None:
    start(image_reliability="reliable")
    offered = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    peer.create_publisher(Image, "image", offered)
    line = peer.wait_log("incompatible QoS on /image")
    assert "RELIABILITY: this node requests reliable, offered is best_effort by /peer" in line


def test_a_subscriber_that_asks_too_much_is_named_with_both_policies(peer: Peer, start) -> None:
    start()
    wanted = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.collect(msg.GroundedTrackArray, "tracks", wanted)
    line = peer.wait_log("incompatible QoS on /tracks")
    assert "DURABILITY: this node offers volatile, requested is transient_local by /peer" in line


def test_best_effort_and_reliable_cameras_both_fit_by_default(peer: Peer, start) -> None:
    tracks = peer.collect(msg.GroundedTrackArray, "tracks")
    start(cameras=["a", "b"], queries=["the red box"])
    stamps = iter(range(10**12, 10**13, 10**8))
    profiles = [
        QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    ]
    publishers = [peer.create_publisher(Image, n, p) for n, p in zip("ab", profiles)]

    def shoot() -> None:
        message = raw(picture(10, 10, 30, 30), next(stamps))
        for publisher in publishers:
            publisher.publish(message)

    peer.publish_until(shoot, lambda: {a.camera for a in tracks} == {"a", "b"}, "both cameras")
    assert not any("incompatible" in line for line in peer.log_lines())


def test_silence_is_told_at_a_bounded_rate(peer: Peer, start) -> None:
    diagnostics = peer.collect(DiagnosticArray, "/diagnostics")
    start(cameras=["front=/front/image_raw"], transport="compressed", log_period=3600.0)
    peer.wait_log("waiting for images on /front/image_raw/compressed (0 publishers)")
    peer.create_publisher(CompressedImage, "/front/image_raw/compressed", 1)

    def warned() -> bool:
        last = diagnostics[-1].status if diagnostics else []
        return any(
            s.name == "/grounding: camera front"
            and s.level == DiagnosticStatus.WARN
            and "(1 publisher" in s.message
            for s in last
        )

    peer.wait(warned, "the warning in the diagnostics")
    assert sum("waiting for images" in line for line in peer.log_lines()) == 1


def test_a_remapped_base_topic_moves_the_compressed_one(peer: Peer, start, domain: int) -> None:
    from rclpy.context import Context
    from seeing import load_seeing

    from llava_st_ros.ros.node import GroundingNode

    context = Context()
    context.init(domain_id=domain)
    node = GroundingNode(
        load=load_seeing,
        context=context,
        cli_args=["--ros-args", "-r", "image:=/left/color", "-p", "transport:=compressed"],
    )
    try:
        node.trigger_configure()
        node.trigger_activate()
        assert [camera.topic for camera in node._cameras] == ["/left/color/compressed"]
    finally:
        node.destroy_node()
        context.shutdown()


def test_latency_is_measured_on_simulated_time_from_the_stamp(peer: Peer, start) -> None:
    diagnostics = peer.collect(DiagnosticArray, "/diagnostics")
    start(use_sim_time=True, queries=["the red box"], default_period=0.05)
    clock = peer.create_publisher(Clock, "/clock", 1)
    camera, count = peer.camera("image"), iter(range(10**9))

    def shoot() -> None:
        stamp = 100 * SECOND + next(count) * SECOND // 100
        # The clock stands 40 s after each image's stamp; no real clock gives that figure.
        clock.publish(Clock(clock=stamp_to_msg(stamp + 40 * SECOND)))
        camera.publish(raw(picture(10, 10, 30, 30), stamp))

    def latency() -> float | None:
        values = [v for d in diagnostics for s in d.status for v in s.values]
        means = [v.value.split()[1] for v in values if "latency" in v.key and v.value != "none"]
        return float(means[-1]) if len(means) > 1 else None

    assert peer.publish_until(shoot, latency, "a latency") == pytest.approx(40.0, abs=2.0)


def test_a_clock_that_jumps_back_begins_anew(peer: Peer, start) -> None:
    arrays = peer.collect(msg.GroundedTrackArray, "tracks")
    start(queries=["the red box"], default_period=0.2)
    camera = peer.camera("image")
    for begin, left in ((5_000 * SECOND, 10), (100 * SECOND, 60)):  # a bag, then again from 100 s
        stamps = iter(range(begin, begin + 1_000 * SECOND, SECOND // 10))
        seen = len(arrays)

        def shoot(stamps=stamps, left=left) -> None:
            camera.publish(raw(picture(left, 10, left + 20, 30), next(stamps)))

        def tracked(seen=seen, begin=begin) -> bool:
            new = [t for a in list(arrays[seen:]) for t in a.tracks]
            return any(begin <= stamp_from_msg(t.header.stamp) < begin + 10**12 for t in new)

        peer.publish_until(shoot, tracked, f"a track at {begin / SECOND} s")
    after = [t for a in arrays for t in a.tracks if stamp_from_msg(t.header.stamp) < 1_000 * SECOND]
    before = [t for a in arrays for t in a.tracks if t not in after]
    assert {t.track_id for t in after}.isdisjoint({t.track_id for t in before})
    for track in after:
        stamps = [stamp_from_msg(b.stamp) for b in track.tube]
        assert stamps == sorted(stamps)
        assert stamps[-1] < 1_000 * SECOND  # nothing of the first time round
