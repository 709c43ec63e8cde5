"""The node's process is stopped or killed at any moment, or has no disk for what it writes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: run through scripts/with_ros")
pytest.importorskip("llava_st_ros.msg", reason="needs the built messages: scripts/build_messages")

from llava_st_ros import msg, srv
from llava_st_ros.media.bags import Bag
from llava_st_ros.ros.bag_player import to_message
from llava_st_ros.ros.conversions import stamp_from_msg
from support.paths import RED_BOX_NODE
from support.red_box_camera import RedBoxCamera
from support.ros_client import TIMEOUT, ClientNode

pytestmark = pytest.mark.ros
RECORDER = Path(__file__).with_name("recorder.py")
QUERY = """queries:=['{"id": "box", "text": "the red box", "task": "STVG", "period": 0.2}']"""
PARAMETERS = (QUERY, "max_frame_rate:=0.0", "history:=0.0")
STOP_SECONDS = 2.0  # from a signal to the end of the process
MOMENTS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3)  # seconds after the signals are handled


@contextmanager
def node_process(*parameters: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the node; kill it at the end if it still runs."""
    arguments = [part for value in (*PARAMETERS, *parameters) for part in ("-p", value)]
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, str(RED_BOX_NODE), "--ros-args", *arguments]
    with subprocess.Popen(command, **{**output, **options}) as running:
        try:
            yield running
        finally:
            running.kill()


def stop(running: subprocess.Popen[str], *signals: signal.Signals) -> None:
    """Send the signals, and expect the end of the process in time."""
    started = time.monotonic()
    for number in signals:
        running.send_signal(number)
    output, _ = running.communicate(timeout=TIMEOUT)
    assert time.monotonic() - started < STOP_SECONDS, output
    assert running.returncode == 0, output
    assert "Traceback" not in (output or ""), output


def handles_signals(process_id: int) -> bool:
    """Whether a process handles SIGTERM itself."""
    status = Path(f"/proc/{process_id}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("seconds", MOMENTS)
def test_a_signal_at_any_moment_of_the_start_ends_the_process(
    client: ClientNode, seconds: float
) -> None:
    """Injected: SIGINT or SIGTERM while the node imports, loads its model, is configured and
        activated.
    Published: nothing false: no track, and no event that has not ended.
    Logged: no traceback; exit code 0 within 2 s.
    """
    with node_process() as running:
        client.poll(lambda: handles_signals(running.pid), "the handlers")
        time.sleep(seconds)
        number = signal.SIGINT if MOMENTS.index(seconds) % 2 else signal.SIGTERM
        stop(running, number)


@pytest.mark.parametrize(
    "signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT), (signal.SIGHUP,)]
)
def test_a_process_that_is_stopped_flushes_its_last_results(
    client: ClientNode, signals: tuple[signal.Signals, ...]
) -> None:
    """Injected: SIGTERM, SIGINT twice or SIGHUP while the model works and events and tracks are
        open.
    Published: everything until then, an empty array, and ENDED or RETRACTED of each event.
    Logged: no traceback; exit code 0 within 2 s.
    """
    events = client.collect(msg.GroundedEvent, "events", 1000)
    arrays = client.collect(msg.GroundedTrackArray, "tracks", 1000)
    answers = client.collect(msg.Answer, "grounding/answers")
    busy = QUERY.replace("0.2", "0.01")
    with node_process(busy, "default_period:=0.01") as running:
        camera = RedBoxCamera(client)
        client.publish_until(
            camera.publish_image,
            lambda: (
                len(answers) > 5
                and any(e.state == e.CONFIRMED for e in list(events))
                and any(a.tracks for a in list(arrays))
            ),
            "answers, a confirmed event and tracks",
        )
        stop(running, *signals)

    def last() -> list[msg.GroundedEvent]:
        return list({event.event_id: event for event in list(events)}.values())

    client.wait(lambda: not list(arrays)[-1].tracks, "an empty array")
    client.wait(
        lambda: all(e.state in (e.ENDED, e.RETRACTED) for e in last()), "the end of each event"
    )
    assert {event.reason for event in last()} == {msg.GroundedEvent.REASON_DEACTIVATED}
    stamps = [stamp_from_msg(array.header.stamp) for array in list(arrays)]
    assert stamps == sorted(stamps)


def test_signals_until_the_end_do_not_change_the_exit_code(client: ClientNode) -> None:
    """Injected: SIGINT and SIGTERM in turns, every 2 ms until the process has ended.
    Published: nothing.
    Logged: no traceback; exit code 0.
    """
    with node_process() as running:
        client.wait_log("active: images from /image")
        for number in itertools.cycle((signal.SIGINT, signal.SIGTERM)):
            running.send_signal(number)
            if running.poll() is not None:
                break
            time.sleep(0.002)
        output, _ = running.communicate(timeout=TIMEOUT)
        assert running.returncode == 0, output
        assert "Traceback" not in output, output


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system without free space."""
    folder = tmp_path / "full"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            (folder / "filler").write_bytes(bytes(2**17))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_node_works_while_the_disk_of_its_log_is_full(
    client: ClientNode, full_disk: Path
) -> None:
    """Injected: a full disk below the log file, stdout and stderr.
    Published: tracks; services respond.
    Logged: /rosout has every line; nothing is written.
    """
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "ROS_LOG_DIR": str(full_disk)}
        with node_process(stdout=full, stderr=full, env=environment) as running:
            camera = RedBoxCamera(client)
            client.publish_until(
                camera.publish_image, lambda: any(a.tracks for a in list(arrays)), "a track"
            )
            request = srv.AddQuery.Request(query=msg.Query(text="the ball"))
            assert client.call(srv.AddQuery, "grounding/add_query", request).success
            client.wait_log("added query", "the ball")
            stop(running, signal.SIGTERM)


def test_a_node_works_after_another_was_killed(client: ClientNode) -> None:
    """Injected: SIGKILL, and a new node afterwards.
    Published: nothing at the end, only DDS's liveliness shows it; tracks of the new node.
    Logged: nothing.
    """
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    for _ in range(2):
        with node_process() as running:
            arrays.clear()
            camera = RedBoxCamera(client)
            client.publish_until(
                camera.publish_image, lambda: any(a.tracks for a in list(arrays)), "a track"
            )
            running.send_signal(signal.SIGKILL)
            running.communicate(timeout=TIMEOUT)


def test_a_recording_is_readable_after_everything_was_killed(
    client: ClientNode, tmp_path: Path
) -> None:
    """Injected: SIGKILL of the node and of the process that records its camera; both start again.
    Published: tracks of the new node, from the images of the unfinished recording.
    Logged: the recording's notes say where it ends.
    """
    file = tmp_path / "cut.mcap"
    recorder_command = [sys.executable, RECORDER, file, "/image"]
    with node_process() as running, subprocess.Popen(recorder_command) as recorder:
        try:
            camera = RedBoxCamera(client)
            client.publish_until(
                camera.publish_image,
                lambda: file.exists() and file.stat().st_size > 10_000,
                "some chunks of the recording",
            )
        finally:
            for process in (recorder, running):
                process.kill()
        running.communicate(timeout=TIMEOUT)
    bag = Bag(file)
    images = list(bag.images(bag.image_topic()))
    assert len(images) >= 6
    stamps = [image.stamp for image in images]
    assert stamps == sorted(set(stamps))
    assert any("is truncated or damaged" in note for note in bag.notes), bag.notes
    arrays = client.collect(msg.GroundedTrackArray, "tracks")
    with node_process():
        publisher, messages = client.camera("image"), itertools.cycle(map(to_message, images))
        client.publish_until(
            lambda: publisher.publish(next(messages)),
            lambda: any(a.tracks for a in list(arrays)),
            "a track",
        )
    assert {stamp_from_msg(t.header.stamp) for a in arrays for t in a.tracks} <= set(stamps)
