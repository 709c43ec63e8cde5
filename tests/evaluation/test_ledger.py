"""The ledger and ``eval explain``: an answer is repeated alone, and what differs is named."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.wrapped import WrappedBackend
from llava_st_ros.cli import eval_explain
from llava_st_ros.config import GrounderConfig
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation import stage_times
from llava_st_ros.evaluation.frame_hashes import HashedBackend, frame_hash
from llava_st_ros.evaluation.latency_models import parse_latency
from llava_st_ros.evaluation.ledger import (
    LedgerModel,
    LedgerSource,
    find_entry,
    ledger_line,
    write_ledger,
)
from llava_st_ros.evaluation.recorded_replay import (
    RecordedReplay,
    StreamingMode,
    recorded_replay,
)
from llava_st_ros.media.sources import BagSource
from llava_st_ros.records import Frame, Query, QueryFailure, Task, Tick
from support.bags import IMAGE, START, STEP, STORE, TOPIC, write_recording
from support.red_box_backend import load_red_box, red_box_image

pytest.importorskip("llava_st_ros.ros.model_loading")
QUERIES = [
    Query("box", "the red box", Task.REC, period=1.0),
    Query("moves", "the red box moves", Task.STVG, period=2.0),
]
FRAMES = 80
MODEL = LedgerModel("/models/red-box", "0" * 64)


def message(index: int, shift: int = 0) -> bytes:
    """A red box that moves to the right by a raster step each 4 frames."""
    left = 10 + index // 4 + shift
    image = red_box_image(left, 20, left + 20, 40)
    stamp = START + index * STEP
    time = STORE.types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    header = STORE.types["std_msgs/msg/Header"](time, "cam_optical")
    height, width = image.shape[:2]
    content = STORE.types[IMAGE](header, height, width, "rgb8", 0, width * 3, image.ravel())
    return bytes(STORE.serialize_cdr(content, IMAGE))


def write_bag(path: Path, changed: int | None = None) -> Path:
    messages = ((START + i * STEP, message(i, shift=i == changed)) for i in range(FRAMES))
    return write_recording(path, StoragePlugin.MCAP, messages)


def replay_bag(bag: Path, latency: str = "", backend: Backend | None = None) -> RecordedReplay:
    model = load_red_box()
    return recorded_replay(
        backend or model.backend,
        model.tokenizer,
        BagSource(bag),
        QUERIES,
        LedgerSource("bag", str(bag), TOPIC, MODEL, GrounderConfig()),
        StreamingMode(parse_latency(latency)) if latency else None,
    )


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("ledger") / "bag")


@pytest.fixture(scope="module")
def replayed(bag: Path) -> RecordedReplay:
    return replay_bag(bag)


@pytest.fixture(scope="module")
def run_folder(replayed: RecordedReplay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_ledger(folder / "ledger.jsonl", map(ledger_line, replayed.ledger))
    return folder


def explain(monkeypatch: pytest.MonkeyPatch, *arguments: object, sha256: str = MODEL.sha256) -> int:
    from llava_st_ros import backends

    def load(path: Path, name: str = "", *, device: str = "", threads: int = 0):
        assert (path, name, device) == (Path(MODEL.path), "", "")
        model = load_red_box()
        return model.backend, model.tokenizer

    monkeypatch.setattr(backends, "load_backend", load)
    monkeypatch.setattr(backends, "model_checksum", lambda path: sha256)
    parser = argparse.ArgumentParser()
    eval_explain.add_arguments(parser)
    return eval_explain.run(parser.parse_args(list(map(str, arguments))))


def last_id(replayed: RecordedReplay, query_id: str) -> str:
    return [e.id for e in replayed.ledger if e.query["id"] == query_id][-1]


def test_there_is_a_line_for_each_answer(replayed: RecordedReplay) -> None:
    answers = replayed.result.groundings
    assert [e.id for e in replayed.ledger] == [
        f"bag/cam/image_raw/{g.query.id}@{g.window[-1]}" for g in answers
    ]
    assert [e.window for e in replayed.ledger] == [g.window for g in answers]
    matches = [e.match_probability for e in replayed.ledger]
    assert matches == [g.match_probability for g in answers] and None not in matches
    entry = replayed.ledger[0]
    assert (entry.query["id"], len(entry.window)) == ("box", 1)
    # The hash is that of the pixels, by another way.
    assert entry.frames == ((START, frame_hash(red_box_image(10, 20, 30, 40))),)
    assert entry.token_ids == answers[0].token_ids
    assert "<WIDTH-010><HEIGHT-020><WIDTH-030><HEIGHT-040>" in entry.text
    assert entry.make_query() == QUERIES[0]
    assert entry.make_config() == GrounderConfig()


def test_a_ledger_is_read_as_it_was_written(run_folder: Path, replayed: RecordedReplay) -> None:
    for entry in replayed.ledger:
        assert find_entry(run_folder, entry.id) == entry
        assert find_entry(run_folder / "ledger.jsonl", entry.id) == entry


@pytest.mark.parametrize("query_id", ["box", "moves"])
def test_an_answer_is_repeated_alone(
    run_folder: Path, replayed: RecordedReplay, query_id: str, monkeypatch, capsys
) -> None:
    entry = find_entry(run_folder, last_id(replayed, query_id))
    assert explain(monkeypatch, run_folder, entry.id) == 0
    printed = capsys.readouterr().out
    assert "the answer is the same as in the run" in printed
    assert " ".join(map(str, entry.token_ids)) in printed
    assert entry.text in printed
    assert f"match   probability {entry.match_probability:.3f}" in printed
    prompt = printed.splitlines()[2]
    assert "the red box" in prompt and " x " in prompt  # visual tokens are counted
    assert f"frames  {len(entry.frames)}, from {entry.frames[0][0]} ns" in printed


def test_a_changed_frame_is_named_with_its_answer(
    run_folder: Path, replayed: RecordedReplay, tmp_path: Path, monkeypatch, capsys
) -> None:
    entry = find_entry(run_folder, last_id(replayed, "moves"))
    stamp = entry.frames[7][0]
    other = write_bag(tmp_path / "other", changed=(stamp - START) // STEP)
    assert explain(monkeypatch, run_folder, entry.id, "--bag", other, "--json") == 1
    values = json.loads(capsys.readouterr().out)
    assert not values["same"] and 0 <= values["match_probability"] <= 1
    frames, tokens, answer = values["differences"]
    assert frames == (
        f"frames: 1 of {len(entry.frames)} have other pixels than in the run: {stamp}"
    )
    assert tokens.startswith(f"tokens: {len(entry.token_ids)} instead of {len(entry.token_ids)}")
    assert answer.startswith("answer: ")


def test_another_model_is_named(
    run_folder: Path, replayed: RecordedReplay, monkeypatch, capsys
) -> None:
    entry_id = last_id(replayed, "box")
    assert explain(monkeypatch, run_folder, entry_id, sha256="1" * 64) == 1
    (line,) = [n for n in capsys.readouterr().out.splitlines() if n.startswith("differs")]
    assert line == f"differs model: SHA-256 is {'1' * 64}; the run had {'0' * 64}"


def test_a_bag_without_the_frames_is_an_error(
    run_folder: Path, replayed: RecordedReplay, tmp_path: Path, monkeypatch
) -> None:
    messages = ((START + i * STEP, message(i)) for i in range(30))
    short = write_recording(tmp_path / "short", StoragePlugin.MCAP, messages)
    with pytest.raises(DataError, match=r"has no frame with the stamp \d+: \d+ of \d+ frames"):
        explain(monkeypatch, run_folder, last_id(replayed, "moves"), "--bag", short)


def test_an_unknown_id_is_answered_with_near_ones(
    run_folder: Path, replayed: RecordedReplay
) -> None:
    known = last_id(replayed, "moves")
    with pytest.raises(DataError, match=f"no answer .* among {len(replayed.ledger)}") as caught:
        find_entry(run_folder, known[:-1])
    assert known in caught.value.remedy


DAMAGE = [
    (lambda line: line[: len(line) // 2], "not valid JSON"),
    (lambda line: "[]", "has no id"),
    (lambda line: line.replace('"task":"REC"', '"task":"SING"'), "SING"),
    (lambda line: line.replace('"period":1.0', '"period":-1.0'), "period"),
    (lambda line: line.replace('"period":1.0', '"pace":1.0'), "pace"),
    (lambda line: line.replace('"window_seconds":6.0', '"window_seconds":0'), "window_seconds"),
    (lambda line: line.replace('"token_ids":[', '"token_ids":["a",'), "token_ids"),
    (lambda line: line.replace('"window":[', '"window":[1.5,'), "window"),
    (lambda line: line.replace('"text":"the red box"', '"text":7'), "text"),
    (lambda line: line.replace('"box":null', '"box":[1,2]'), "line 1"),
    (lambda line: line.replace('"box":null', '"box":3'), "line 1"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damaged_lines_are_named(damage, message, replayed: RecordedReplay, tmp_path: Path) -> None:
    line = ledger_line(replayed.ledger[0])
    assert damage(line) != line
    write_ledger(tmp_path / "ledger.jsonl", [damage(line)])
    with pytest.raises(DataError) as caught:
        find_entry(tmp_path, replayed.ledger[0].id)
    assert message in str(caught.value)
    assert "line 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ledger\.jsonl"):
        find_entry(tmp_path, "bag/box@1")


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
from test_ledger import replay_bag
from llava_st_ros.evaluation.ledger import ledger_line
replayed = replay_bag(Path({bag!r}), {latency!r})
for entry in replayed.ledger:
    print(ledger_line(entry))
for item in replayed.result.published:
    print(item)
"""


@pytest.mark.parametrize("latency", ["", "p50=0.8,p99=1.5"])
def test_two_processes_write_the_same_bytes(bag: Path, latency: str) -> None:
    here = Path(__file__).parent
    program = PROGRAM.format(tests=str(here.parent), here=str(here), bag=str(bag), latency=latency)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b'{"id":') >= 6


def test_frames_in_a_window_are_hashed_and_others_are_not(bag: Path) -> None:
    model = load_red_box()
    encoded: list[int] = []

    class Counting(WrappedBackend):
        def encode_frame(self, image: np.ndarray):
            encoded.append(1)
            return super().encode_frame(image)

    replayed = replay_bag(bag, backend=Counting(model.backend))
    hashed = {frame for entry in replayed.ledger for frame in entry.frames}
    assert len(hashed) == len(encoded) < FRAMES


def test_an_image_whose_memory_is_used_again_keeps_its_own_hash() -> None:
    hashed = HashedBackend(load_red_box().backend)
    expected = {}

    def frames() -> Iterator[Frame]:
        for stamp in range(50):  # each frame is gone before the next is made
            image = red_box_image(stamp, 1, stamp + 2, 3)
            expected[stamp] = frame_hash(image)
            yield Frame(image, stamp)

    for frame in hashed.watch(frames()):
        hashed.encode_frame(frame.image)
    assert {stamp: hashed.hash_of("camera", stamp) for stamp in expected} == expected
    assert len(set(expected.values())) == 50
    with pytest.raises(KeyError):
        hashed.hash_of("camera", 50)


def test_stages_have_samples_for_each_tick(replayed: RecordedReplay, bag: Path) -> None:
    ticks = len({g.window[-1] for g in replayed.result.groundings})
    counts = {stage: len(samples) for stage, samples in replayed.latency.items()}
    assert counts == {
        "read": FRAMES,
        **dict.fromkeys(("encode", "pack", "embed", "prefill", "decode", "tick"), ticks),
    }
    parts = zip(*(replayed.latency[s] for s in ("encode", "pack", "embed", "prefill", "decode")))
    assert all(sum(part) <= tick for part, tick in zip(parts, replayed.latency["tick"]))
    streaming = replay_bag(bag, "0.25").latency
    assert set(streaming["answer"]) == {0.25}
    assert min(streaming["stamp_to_answer"]) >= 0.25


def test_reading_is_no_part_of_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(stage_times.time, "perf_counter", lambda: clock[0])

    def footage() -> Iterator[Frame]:
        clock[0] += 4.0
        yield Frame(red_box_image(0, 1, 2, 3), 0)

    times = stage_times.StageTimes()

    def tick() -> Tick:
        clock[0] += 1.0
        list(times.read(footage()))
        return Tick(failures=(QueryFailure("q", "camera", "no", 1, 0),))

    times.run_tick(tick)
    assert times.samples == {"read": [4.0], "tick": [1.0]}


def test_a_query_that_is_never_answered_is_a_result(bag: Path) -> None:
    class Failing(WrappedBackend):
        def encode_frame(self, image: np.ndarray):
            raise RuntimeError("out of memory")

    replayed = replay_bag(bag, backend=Failing(load_red_box().backend))
    assert replayed.result.complete and replayed.ledger == ()
    assert {failure.query_id for failure in replayed.result.failures} == {"box", "moves"}


def test_the_same_stamps_in_two_streams_have_their_own_entries(tmp_path: Path) -> None:
    loop = [(START + i * STEP, message(i)) for i in range(30)]
    again = [(START + (30 + i) * STEP, message(i)) for i in range(30)]
    replayed = replay_bag(write_recording(tmp_path / "loop", StoragePlugin.MCAP, loop + again))
    ids = [entry.id for entry in replayed.ledger]
    assert len(set(ids)) == len(ids)
    assert any(name.endswith("#1") for name in ids)
    assert {name.removesuffix("#1") for name in ids if name.endswith("#1")} & set(ids)
