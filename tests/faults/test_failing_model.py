"""A model that raises in a tick: the others are answered, and it is tried again."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from llava_st_ros import msg, srv
from support.red_box_camera import RedBoxCamera
from support.ros_client import ClientNode

pytestmark = pytest.mark.ros
WARN, ERROR = DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def model_messages(arrays: list[DiagnosticArray]) -> list[str]:
    return [status.message for array in list(arrays) for status in array.status[:1]]


@pytest.mark.parametrize(
    "error", [RuntimeError("device lost"), MemoryError("CUDA out of memory")], ids=repr
)
def test_a_tick_that_fails_is_logged_and_the_next_ones_are_evaluated(
    client: ClientNode, start_node, backend, error: Exception
) -> None:
    """Injected: the model raises, or has no memory, when it encodes a frame in a tick.
    Published: nothing meanwhile, services respond; tracks once it works again.
    Logged: WARN with the query, the camera, the error and the next try; diagnostics ERROR.
    """
    fails = [True]
    encode = backend.encode_frame

    def encode_frame(image: object) -> object:
        if fails[0]:
            raise error
        return encode(image)

    backend.encode_frame = encode_frame
    tracks = client.collect(msg.GroundedTrackArray, "tracks")
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    start_node(queries=['{"id": "box", "text": "the red box"}'])
    camera = RedBoxCamera(client)

    def is_reported() -> bool:
        statuses = [array.status[0] for array in list(diagnostics)]
        return any(s.level == ERROR and str(error) in s.message for s in statuses)

    client.publish_until(camera.publish_image, is_reported, "the error in /diagnostics")
    client.wait_log("query 'box' failed on camera 'camera'", str(error))
    request = srv.ListQueries.Request()
    assert client.call(srv.ListQueries, "grounding/list_queries", request).queries
    assert not any(array.tracks for array in list(tracks))
    fails[0] = False
    client.publish_until(
        camera.publish_image, lambda: any(a.tracks for a in list(tracks)), "a track afterwards"
    )


def test_a_failing_query_is_reported_in_diagnostics_and_others_are_answered(
    client: ClientNode, start_node, backend
) -> None:
    """Injected: the model has no memory for the prompt of one of two queries.
    Published: answers to the other query.
    Logged: WARN with the query, the camera, the error and the next try; diagnostics WARN.
    """
    prefill = backend.prefill

    def checked(embeddings: Any, cache: Any) -> Any:
        words = backend.tokenizer.decode([token for token, _ in embeddings])
        if "cursed" in words:
            raise MemoryError("out of memory")
        return prefill(embeddings, cache)

    backend.prefill = checked
    diagnostics = client.collect(DiagnosticArray, "/diagnostics")
    answers = client.collect(msg.Answer, "grounding/answers")
    start_node(
        queries=[
            '{"id": "good", "text": "the red box", "task": "REC", "period": 0.05}',
            '{"id": "bad", "text": "the cursed box", "task": "REC", "period": 0.05}',
        ]
    )
    camera = RedBoxCamera(client)

    def is_reported() -> bool:
        named = "query 'bad' failed "
        end = "on camera 'camera': MemoryError: out of memory; next try in "
        return any(named in m and end in m for m in model_messages(diagnostics))

    client.publish_until(camera.publish_image, is_reported, "the failing query in /diagnostics")
    assert {a.query.id for a in answers} == {"good"}
    levels = {s.level for array in diagnostics for s in array.status[:1] if "bad" in s.message}
    assert levels == {WARN}
    client.wait_log("query 'bad' failed on camera 'camera'", "MemoryError: out of memory")
