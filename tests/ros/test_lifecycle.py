"""Lifecycle transitions: subscriptions, memory and threads are released; failures are reported."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState

from llava_st_ros import msg, srv
from llava_st_ros.errors import CheckpointError, ConfigError
from llava_st_ros.ros import model_loading
from llava_st_ros.ros import node as node_module
from llava_st_ros.ros.memory import free_memory
from llava_st_ros.ros.model_loading import LoadedModel
from support.red_box_backend import load_red_box, red_box_image
from support.ros_client import ClientNode, image_message

pytestmark = pytest.mark.ros


def change(client: ClientNode, transition: int, label: str = "") -> bool:
    request = ChangeState.Request(transition=Transition(id=transition, label=label))
    return client.call(ChangeState, "grounding/change_state", request).success


def state(client: ClientNode) -> int:
    return client.call(GetState, "grounding/get_state", GetState.Request()).current_state.id


def named_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("llava-st")}


def test_cleanup_releases_model_threads_and_subscriptions(
    client: ClientNode, start_node, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref] = []

    def load(_: object) -> LoadedModel:
        model = load_red_box()
        models.append(weakref.ref(model.backend))
        return model

    referenced: list[bool] = []  # whether the model was, when its memory was given back

    def give_back() -> None:
        free_memory()
        referenced.append(models[-1]() is not None)

    monkeypatch.setattr(node_module, "free_memory", give_back)
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    node = start_node(active=False, load=load, queries=["the red box"])
    camera = client.create_publisher(type(image_message(red_box_image(1, 1, 2, 2), 1)), "image", 1)
    assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
    before, stamp = set(threading.enumerate()), 10**12
    for _ in range(2):
        assert change(client, Transition.TRANSITION_CONFIGURE)
        assert state(client) == State.PRIMARY_STATE_INACTIVE
        assert camera.get_subscription_count() == 0
        assert named_threads() == {"llava-st-worker"}
        assert change(client, Transition.TRANSITION_ACTIVATE)
        assert state(client) == State.PRIMARY_STATE_ACTIVE
        seen = len(tracks)

        def publish_image() -> None:
            nonlocal stamp
            stamp += 10**8
            camera.publish(image_message(red_box_image(10, 10, 30, 30), stamp))

        # As an executor that waits does, through the handlers of their events.
        held = node._result_publishers
        client.publish_until(
            publish_image, lambda seen=seen: any(a.tracks for a in tracks[seen:]), "a track"
        )
        assert change(client, Transition.TRANSITION_DEACTIVATE)
        client.poll(lambda: camera.get_subscription_count() == 0, "the end of the subscription")
        assert change(client, Transition.TRANSITION_CLEANUP)
        assert named_threads() == set()
        gc.collect()
        assert models[-1]() is None, "the model is still referenced"
        assert held is not node._result_publishers
    assert referenced == [False, False]
    assert len(models) == 2
    # Only the executors' thread pools may have grown.
    left = {t for t in set(threading.enumerate()) - before if "ros-callback" not in t.name}
    assert left == set()
    assert change(client, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert node.get_node_names()


def test_failed_loading_leaves_the_node_unconfigured(client: ClientNode, start_node) -> None:
    broken = [True]

    def load(_: object) -> LoadedModel:
        if broken[0]:
            raise CheckpointError("the checkpoint is truncated", "copy it again")
        return load_red_box()

    start_node(active=False, load=load)
    assert not change(client, Transition.TRANSITION_CONFIGURE)
    client.wait_log("cannot configure", "the checkpoint is truncated; copy it again")
    assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
    broken[0] = False
    assert change(client, Transition.TRANSITION_CONFIGURE)
    assert state(client) == State.PRIMARY_STATE_INACTIVE


def test_unexpected_exception_is_logged_and_recovered_from(client: ClientNode, start_node) -> None:
    def load(_: object) -> LoadedModel:
        raise ZeroDivisionError("an unexpected failure")

    start_node(active=False, load=load)
    assert not change(client, Transition.TRANSITION_CONFIGURE)
    client.wait_log("cannot configure", "an unexpected failure", "Traceback")
    assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
    assert named_threads() == set()


@pytest.mark.parametrize("failing", ["/second", "/second/depth"])
def test_failed_activation_leaves_no_subscription(
    client: ClientNode, start_node, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    node = start_node(
        active=False,
        cameras=["first=/first", "second=/second"],
        depth=["first=/first/depth", "second=/second/depth"],
    )
    assert change(client, Transition.TRANSITION_CONFIGURE)
    create = node.create_subscription

    def fail(kind: type, topic: str, *arguments: object, **options: object) -> object:
        if topic == failing:
            raise ConfigError("no more handles")
        return create(kind, topic, *arguments, **options)

    monkeypatch.setattr(node, "create_subscription", fail)
    assert not change(client, Transition.TRANSITION_ACTIVATE)
    client.wait_log("cannot activate", "no more handles")
    assert state(client) == State.PRIMARY_STATE_INACTIVE
    topics = {subscription.topic_name for subscription in node.subscriptions}
    assert not {topic for topic in topics if topic.startswith(("/first", "/second"))}
    publishers = list(node._managed_entities)
    assert publishers and not any(publisher.is_activated for publisher in publishers)
    assert named_threads() <= {"llava-st-worker"}


def test_inference_runs_only_in_the_worker_thread(client: ClientNode, start_node, backend) -> None:
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    start_node(queries=["the red box"])
    camera, stamps = client.camera("image"), iter(range(10**12, 10**13, 10**8))
    client.publish_until(
        lambda: camera.publish(image_message(red_box_image(10, 10, 30, 30), next(stamps))),
        lambda: any(a.tracks for a in tracks),
        "a track",
    )
    assert backend.threads == {"llava-st-worker"}


def test_invalid_transitions_are_refused_and_the_state_is_unchanged(
    client: ClientNode, start_node
) -> None:
    """As nav2's lifecycle manager does to a node with autostart: ids, in any state."""
    start_node()  # active
    valid_by_state = {  # the first one leads to the next state
        State.PRIMARY_STATE_ACTIVE: (4, 7),
        State.PRIMARY_STATE_INACTIVE: (2, 3, 6),
        State.PRIMARY_STATE_UNCONFIGURED: (5, 1),
        State.PRIMARY_STATE_FINALIZED: (),
    }
    for expected, valid in valid_by_state.items():
        assert state(client) == expected
        for transition in {*range(10), 10, 30, 99, 255} - set(valid):
            assert not change(client, transition)
            assert state(client) == expected
        assert not change(client, (*valid, 1)[0], label="no_such_transition")
        assert state(client) == expected
        if valid:
            assert change(client, valid[0])
    client.wait_log("rejected transition 1: the node is active; possible: deactivate (4), shutdown")
    assert not any("RCLError" in line for line in client.log_lines())


def test_service_whose_handler_raises_still_responds(
    client: ClientNode, start_node, monkeypatch
) -> None:
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    node = start_node()

    def broken() -> None:
        raise ZeroDivisionError("an unexpected failure")

    monkeypatch.setattr(node._query_services, "_get_worker", broken)
    request = srv.AddQuery.Request(query=msg.Query(text="the red box"))
    for _ in range(2):
        response = client.call(srv.AddQuery, "grounding/add_query", request)
        assert not response.success
        assert response.message == "ZeroDivisionError: an unexpected failure"
    client.wait_log("a request to", "add_query failed", "an unexpected failure")
    client.wait(
        lambda: any(
            status.level == DiagnosticStatus.ERROR and "callbacks raised" in status.message
            for array in diagnostics
            for status in array.status
        ),
        "an ERROR in the diagnostics",
    )
    assert state(client) == State.PRIMARY_STATE_ACTIVE


def test_worker_that_ends_is_replaced_and_reported(
    client: ClientNode, start_node, monkeypatch
) -> None:
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    node = start_node(queries=["the red box"])
    camera, stamps = client.camera("image"), iter(range(10**12, 10**13, 10**8))

    def publish_image() -> None:
        camera.publish(image_message(red_box_image(10, 10, 30, 30), next(stamps)))

    def end(*_: object) -> None:
        raise SystemExit("the end")

    with monkeypatch.context() as patch:
        patch.setattr(node._worker, "_tick", end)
        client.publish_until(publish_image, lambda: not node._worker.is_alive, "the end")
    client.publish_until(publish_image, lambda: any(a.tracks for a in tracks), "a track")
    client.wait_log("the worker thread ended and was restarted: SystemExit: the end")
    client.wait(
        lambda: any(
            status.level == DiagnosticStatus.ERROR and "the worker thread ended" in status.message
            for array in diagnostics
            for status in array.status
        ),
        "an ERROR in the diagnostics",
    )


def test_services_of_an_unconfigured_node_name_the_reason(client: ClientNode, start_node) -> None:
    start_node(active=False)
    query = msg.Query(text="the red box")
    response = client.call(srv.AddQuery, "grounding/add_query", srv.AddQuery.Request(query=query))
    assert not response.success
    assert "unconfigured" in response.message
    listed = client.call(srv.ListQueries, "grounding/list_queries", srv.ListQueries.Request())
    assert list(listed.queries) == []


@pytest.mark.parametrize(
    ("fixture", "backend_name"), [("random_engine", "onnxruntime"), ("random_checkpoint", "torch")]
)
def test_diagnostics_and_log_name_the_packaged_model_that_was_loaded(
    client: ClientNode, start_node, fixture: str, backend_name: str, request, monkeypatch
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    monkeypatch.setattr(model_loading, "default_model", lambda *_: folder)
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    start_node(active=False, load=model_loading.load_model, model="")
    assert change(client, Transition.TRANSITION_CONFIGURE)
    client.wait_log(f"configured: {folder.name}, {backend_name} on cpu")

    def model_values() -> dict[str, str]:
        statuses = [s for array in diagnostics for s in array.status if s.name.endswith(": model")]
        values = {value.key: value.value for value in statuses[-1].values} if statuses else {}
        return values if "model" in values else {}

    values = client.wait(model_values, "diagnostics of the loaded model")
    assert (values["model"], values["model folder"]) == (folder.name, str(folder))
    assert values["backend"] == backend_name
