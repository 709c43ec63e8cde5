"""Up and down twice: subscriptions and memory go, and no thread is left."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from peer import Peer, raw
from seeing import load_seeing, picture

from llava_st_ros import msg, srv
from llava_st_ros.errors import CheckpointError

pytestmark = pytest.mark.ros


def change(peer: Peer, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return peer.call(ChangeState, "grounding/change_state", request).success


def state(peer: Peer) -> int:
    return peer.call(GetState, "grounding/get_state", GetState.Request()).current_state.id


def named_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("llava-st")}


def test_up_and_down_twice_leaves_nothing_behind(peer: Peer, start) -> None:
    models: list[weakref.ref] = []

    def load(settings: object):
        backend, tokenizer = load_seeing()
        models.append(weakref.ref(backend))
        return backend, tokenizer

    tracks = peer.collect(msg.GroundedTrackArray, "tracks")
    node = start(active=False, load=load, queries=["the red box"])
    camera = peer.create_publisher(type(raw(picture(1, 1, 2, 2), 1)), "image", 1)
    assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
    before, stamp = set(threading.enumerate()), 10**12
    for _ in range(2):
        assert change(peer, Transition.TRANSITION_CONFIGURE)
        assert state(peer) == State.PRIMARY_STATE_INACTIVE
        assert camera.get_subscription_count() == 0
        assert named_threads() == {"llava-st-worker"}
        assert change(peer, Transition.TRANSITION_ACTIVATE)
        assert state(peer) == State.PRIMARY_STATE_ACTIVE
        seen = len(tracks)

        def shoot() -> None:
            nonlocal stamp
            stamp += 10**8
            camera.publish(raw(picture(10, 10, 30, 30), stamp))

        peer.publish_until(shoot, lambda seen=seen: any(a.tracks for a in tracks[seen:]), "a track")
        assert change(peer, Transition.TRANSITION_DEACTIVATE)
        peer.poll(lambda: camera.get_subscription_count() == 0, "the end of the subscription")
        assert change(peer, Transition.TRANSITION_CLEANUP)
        assert named_threads() == set()
        gc.collect()
        assert models[-1]() is None, "the model is still held"
    assert len(models) == 2
    # The executor's pool may have grown; nothing else may have.
    left = {t for t in set(threading.enumerate()) - before if "ThreadPoolExecutor" not in t.name}
    assert left == set()
    assert change(peer, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert node.get_node_names()


def test_a_model_that_does_not_load_leaves_the_node_unconfigured(peer: Peer, start) -> None:
    broken = [True]

    def load(settings: object):
        if broken[0]:
            raise CheckpointError("half a checkpoint; expected a whole one", "copy it again")
        return load_seeing()

    start(active=False, load=load)
    assert not change(peer, Transition.TRANSITION_CONFIGURE)
    peer.wait_log("cannot configure", "half a checkpoint; expected a whole one; copy it again")
    assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
    broken[0] = False
    assert change(peer, Transition.TRANSITION_CONFIGURE)
    assert state(peer) == State.PRIMARY_STATE_INACTIVE


def test_an_unforeseen_failure_is_told_and_recovered_from(peer: Peer, start) -> None:
    def load(settings: object):
        raise ZeroDivisionError("who would have thought")

    start(active=False, load=load)
    assert not change(peer, Transition.TRANSITION_CONFIGURE)
    peer.wait_log("cannot configure", "who would have thought", "Traceback")
    assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
    assert named_threads() == set()


def test_a_failing_network_is_told_and_the_node_goes_on(peer: Peer, start, backend) -> None:
    fails = [True]
    encode = backend.encode_frame

    def encode_frame(image: object) -> object:
        if fails[0]:
            raise RuntimeError("device lost")
        return encode(image)

    backend.encode_frame = encode_frame
    tracks = peer.collect(msg.GroundedTrackArray, "tracks")
    start(queries=["the red box"])
    camera, stamps = peer.camera("image"), iter(range(10**12, 10**13, 10**8))

    def shoot() -> None:
        camera.publish(raw(picture(10, 10, 30, 30), next(stamps)))

    peer.publish_until(
        shoot, lambda: any("device lost" in s for s in peer.log_lines()), "the error"
    )
    fails[0] = False
    peer.publish_until(shoot, lambda: any(a.tracks for a in tracks), "a track after the failure")


def test_inference_runs_in_the_worker_alone(peer: Peer, start, backend) -> None:
    tracks = peer.collect(msg.GroundedTrackArray, "tracks")
    start(queries=["the red box"])
    camera, stamps = peer.camera("image"), iter(range(10**12, 10**13, 10**8))
    peer.publish_until(
        lambda: camera.publish(raw(picture(10, 10, 30, 30), next(stamps))),
        lambda: any(a.tracks for a in tracks),
        "a track",
    )
    assert backend.threads == {"llava-st-worker"}


def test_services_say_what_is_missing_before_configuring(peer: Peer, start) -> None:
    start(active=False)
    query = msg.Query(text="the red box")
    response = peer.call(srv.AddQuery, "grounding/add_query", srv.AddQuery.Request(query=query))
    assert not response.success
    assert "unconfigured" in response.message
    listed = peer.call(srv.ListQueries, "grounding/list_queries", srv.ListQueries.Request())
    assert list(listed.queries) == []
