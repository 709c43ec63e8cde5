"""ST-Align records: parsing, sampling and batching, and the message of every kind of bad record."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from llava_st_ros.backends.preprocessing import resize
from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.files.json_files import read_values
from llava_st_ros.media.frame_sampling import frame_indices
from llava_st_ros.records import Modality
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.training.loop.batches import FULL_SHARD, Shard
from llava_st_ros.training.st_align.bad_records import BadRecordLog
from llava_st_ros.training.st_align.batches import RecordBatches
from llava_st_ros.training.st_align.format import Record, parse
from llava_st_ros.training.st_align.frames import read_frames
from llava_st_ros.training.st_align.sampler import RecordFile, RecordSampler, read_records
from support.films import cut, overwrite, packet_bytes, write_film
from support.st_align_files import (
    FRAMES,
    change,
    image_record,
    moving_square,
    video_record,
    write_files,
)
from support.tiny_model import tiny_config, tiny_tokenizer


def grounding() -> dict[str, Any]:
    """A record in the form of the published files, written by hand."""
    return {
        "id": 7,
        "video": "a.mp4",
        "conversations": [
            {
                "from": "human",
                "value": "<video>\nBetween  {<TEMP-INPUT><TEMP-INPUT>} , the ball. Where?",
            },
            {
                "from": "gpt",
                "value": "<TEMP-OUTPUT>: [<WIDTH-OUTPUT><HEIGHT-OUTPUT><WIDTH-OUTPUT>"
                "<HEIGHT-OUTPUT>]",
            },
            {"from": "human", "value": "What is at [<WIDTH-INPUT><HEIGHT-INPUT>]? When?"},
            {"from": "gpt", "value": "A ball, {<TEMP-OUTPUT><TEMP-OUTPUT>}."},
        ],
        "variables": {
            "temporal_input_locations": [0.25, 0.75],
            "temporal_output_locations": [0.5, 0.2, 0.9],
            "spatial_height_input_locations": [0.6],
            "spatial_height_output_locations": [0.1, 0.3],
            "spatial_width_input_locations": [0.4],
            "spatial_width_output_locations": [0.15, 0.35],
        },
        "meta": {"split": [3, 90]},
    }


def tiny() -> tuple[Any, PromptBuilder]:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    return config, PromptBuilder(tokenizer, config)


def test_values_are_assigned_to_the_turns_in_reading_order() -> None:
    record = parse(grounding(), "a.json:0")
    (first, first_answer), (second, second_answer) = record.turns
    assert (record.media, record.modality, record.split) == ("a.mp4", Modality.VIDEO, (3, 90))
    assert first.text == "Between  {<TEMP-INPUT><TEMP-INPUT>} , the ball. Where?"
    assert first.inputs[Axis.TIME] == (0.25, 0.75) and first.inputs[Axis.WIDTH] == ()
    assert first_answer.values == (0.5, 0.15, 0.1, 0.35, 0.3)  # time, then x1 y1 x2 y2
    assert (second.inputs[Axis.WIDTH], second.inputs[Axis.HEIGHT]) == ((0.4,), (0.6,))
    assert second_answer.values == (0.2, 0.9)


def test_answers_have_the_nearest_tokens_and_keep_exact_values() -> None:
    config, builder = tiny()  # 10 rows of time, 12 of height and width
    record = parse(grounding(), "a.json:0")
    formatted = record.turns[0][1].formatted(config)
    # 0.5 * 9 = 4.5 -> 5; of 11: 0.15 -> 1.65, 0.1 -> 1.1, 0.35 -> 3.85, 0.3 -> 3.3
    assert formatted.text == "<TEMP-005>: [<WIDTH-002><HEIGHT-001><WIDTH-004><HEIGHT-003>]"
    conversation = builder.build_labeled(
        [(question, answer.formatted(config)) for question, answer in record.turns]
    )
    ids, values = conversation.prompt.token_ids, conversation.coordinate_values
    exact = values[~np.isnan(values)]
    np.testing.assert_allclose(exact, [0.5, 0.15, 0.1, 0.35, 0.3, 0.2, 0.9], rtol=1e-6)
    assert conversation.labels_mask[~np.isnan(values)].all()
    # The other labels are the answers' words and the end of each turn.
    labeled = tiny_tokenizer().decode(ids[conversation.labels_mask])
    assert labeled == (
        "<TEMP-005>: [<WIDTH-002><HEIGHT-001><WIDTH-004><HEIGHT-003>]<|im_end|>"
        "A ball, {<TEMP-002><TEMP-008>}.<|im_end|>"
    )
    assert conversation.prompt.temporal_inputs == (0.25, 0.75)


def test_times_are_fractions_of_the_window_even_if_the_table_is_longer() -> None:
    config = dataclasses.replace(tiny_config(tiny_tokenizer(19)), num_temporal_tokens=19)
    formatted = parse(grounding(), "a.json:0").turns[1][1].formatted(config)
    # Frame 9 of 10 is row 9 of 19: 0.9 of the window is 8.1 rows, 0.45 of the table.
    assert formatted.text.endswith("{<TEMP-002><TEMP-008>}.")
    np.testing.assert_allclose(formatted.values, [0.1, 0.45])


def test_a_written_record_can_be_read_back() -> None:
    for value, modality in (
        (video_record("v0"), Modality.VIDEO),
        (image_record("p0"), Modality.IMAGE),
    ):
        record = parse(json.loads(json.dumps(value)), "x:0")
        assert record.modality is modality
        values = [v for q, a in record.turns for v in (*q.inputs[Axis.WIDTH], *a.values)]
        written = value["variables"]
        assert len(values) == sum(len(v) for k, v in written.items() if "output" in k) + len(
            written["spatial_width_input_locations"]
        )
    config = dataclasses.replace(tiny_config(tiny_tokenizer(12)), num_temporal_tokens=12)
    config = dataclasses.replace(config, num_frames=10)
    record = parse(video_record("v0"), "x:0")
    # Frames 2 and 4 of 12 are 1.64 and 3.27 of a window of 10.
    assert record.turns[2][1].formatted(config).text == "During the period {<TEMP-002><TEMP-003>}"


def altered(edit: Any) -> dict[str, Any]:
    value = copy.deepcopy(grounding())
    edit(value)
    return value


def set_text(number: int, text: str) -> Any:
    return lambda value: value["conversations"][number].update(value=text)


BAD = {
    "no object": (lambda v: v.clear(), "no image or video; expected exactly one of the two"),
    "two media": (lambda v: v.update(image="b.png"), "an image and a video"),
    "many images": (lambda v: v.update(video=["a.mp4", "b.mp4"]), "expected one path"),
    "role": (
        lambda v: v["conversations"][2].update({"from": "system"}),
        "message 2 is from 'system'",
    ),
    "order": (lambda v: v["conversations"].pop(0), "message 0 is from 'gpt'"),
    "unanswered": (lambda v: v["conversations"].pop(), "the last question has no answer"),
    "wordless": (set_text(1, " "), "message 1 has no text"),
    "no tag": (set_text(0, "Where? {<TEMP-INPUT><TEMP-INPUT>}"), "found 0 tags (<image>, <video>)"),
    "wrong tag": (set_text(0, "<image>\n{<TEMP-INPUT><TEMP-INPUT>}?"), "0 <video> in the first"),
    "only the tag": (
        lambda v: (set_text(0, "<video>\n")(v), v["variables"].update(temporal_input_locations=[])),
        "no text besides <video>",
    ),
    "output in a question": (
        set_text(2, "<TEMP-OUTPUT>?"),
        "INPUT in questions and OUTPUT in answers",
    ),
    "token": (set_text(3, "At <TEMP-012>."), "message 3 contains <TEMP-012>"),
    "no values": (lambda v: v.pop("variables"), "2 <TEMP-INPUT> but 0 values"),
    "too few": (
        lambda v: v["variables"]["temporal_output_locations"].pop(),
        "3 <TEMP-OUTPUT> but 2 values in temporal_output_locations",
    ),
    "too many": (
        lambda v: v["variables"]["spatial_width_output_locations"].append(0.1),
        "2 <WIDTH-OUTPUT> but 3 values",
    ),
    "outside": (
        lambda v: v["variables"].update(spatial_height_input_locations=[1.02]),
        "spatial_height_input_locations contains 1.02; expected numbers in [0, 1]",
    ),
    "not a number": (
        lambda v: v["variables"].update(spatial_height_input_locations=[float("nan")]),
        "spatial_height_input_locations contains nan",
    ),
    "text": (
        lambda v: v["variables"].update(spatial_height_input_locations=["0.6"]),
        "contains '0.6'",
    ),
    "split": (lambda v: v["meta"].update(split=[9, 3]), "split is [9, 3]"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_error_of_a_bad_record_is_one_line(case: str) -> None:
    alter, message = BAD[case]
    with pytest.raises(DataError) as caught:
        parse(altered(alter), "a.json:3")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_bad_records_are_listed_and_skipped(tmp_path: Path, capsys: Any) -> None:
    folder = write_files(tmp_path, videos=1, pictures=4)
    change(folder / "pictures.json", 2, variables={})
    log = tmp_path / "bad.txt"
    records, bad = read_records([RecordFile("pictures.json")], folder, {"log": log})
    assert [r.source for r in records[0]] == [f"pictures.json:{i}" for i in (0, 1, 3)]
    line = "bad record pictures.json:2: 2 <HEIGHT-INPUT> but 0 values in"
    assert log.read_text().startswith(line) and capsys.readouterr().err.startswith(line)
    assert list(bad.errors) == ["pictures.json:2"]


def test_too_many_bad_records_end_the_run(tmp_path: Path) -> None:
    good, wrong = image_record("p0"), {**image_record("p0"), "variables": {}}
    (tmp_path / "a.json").write_text(json.dumps([good] * 296 + [wrong] * 4))
    read_records(
        [RecordFile("a.json")], tmp_path, {"max_bad_share": 0.0134, "min_bad_records": 1}
    )  # 4 of 300
    with pytest.raises(
        DataError, match=r"more than 3 bad records: 4 of 300 .*first: a\.json:296: "
    ):
        read_records(
            [RecordFile("a.json")], tmp_path, {"max_bad_share": 0.01, "min_bad_records": 3}
        )
    (tmp_path / "b.json").write_text(json.dumps([wrong]))
    with pytest.raises(DataError, match=r"no good record in b\.json: 1 of 1 are bad"):
        read_records([RecordFile("b.json")], tmp_path, {})


def test_an_invalid_line_is_a_bad_record_and_an_invalid_file_an_error(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(image_record("p0")) + "\n{\n")
    values = read_values(lines, DataError)
    parse(values[0], "a.jsonl:0")
    with pytest.raises(DataError, match="the record is not valid JSON: Expecting"):
        parse(values[1], "a.jsonl:1")
    (tmp_path / "b.json").write_text("[{")
    with pytest.raises(DataError, match=r"b\.json"):
        read_values(tmp_path / "b.json", DataError)
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(DataError, match="is a JSON dict; expected a list"):
        read_values(tmp_path / "c.json", DataError)


def records_of(name: str, count: int) -> list[Record]:
    return [Record(f"{name}:{i}", "", Modality.IMAGE, (), None) for i in range(count)]


def test_an_epoch_contains_each_record_as_often_as_its_weight_says() -> None:
    files = [records_of("a", 5), records_of("b", 8)]
    sampler = RecordSampler(files, [2.0, 0.5], seed=3)
    assert sampler.epoch_length == 14
    epochs = [[sampler.record_at(14 * e + i).source for i in range(14)] for e in range(2)]
    for epoch in epochs:
        assert all(epoch.count(f"a:{i}") == 2 for i in range(5))
        drawn = [s for s in epoch if s.startswith("b")]
        assert len(drawn) == len(set(drawn)) == 4
    assert epochs[0] != epochs[1]
    again = RecordSampler(files, [2.0, 0.5], seed=3)
    assert [again.record_at(i).source for i in range(28)][::-1] == (epochs[0] + epochs[1])[::-1]
    assert again.record_at(3).source == epochs[0][3]  # no state: going back gives the same
    assert again.record_at(12, skip=3).source == epochs[0][1]
    with pytest.raises(ConfigError, match=r"weight of a\.json is -1"):
        RecordFile("a.json", weight=-1)


def batches(folder: Path, shard: Shard = FULL_SHARD, **settings: Any) -> RecordBatches:
    config, builder = tiny()
    files = [RecordFile("videos.json"), RecordFile("pictures.json")]
    records, bad = read_records(files, folder, {})
    sampler = RecordSampler(records, [1.0, 1.0], seed=1)
    settings = {"size": 4, "shard": shard, **settings}
    return RecordBatches(sampler, bad, builder, config, **settings)


def test_the_parts_of_two_processes_make_up_the_batch_of_one(tmp_path: Path) -> None:
    folder = write_files(tmp_path)
    for number in (5, 0):
        complete = batches(folder)(number).sources
        parts = [batches(folder, Shard(p, 2))(number).sources for p in range(2)]
        assert (complete[::2], complete[1::2]) == tuple(parts)


def test_a_record_with_unreadable_media_is_replaced_by_the_next_good_one(tmp_path: Path) -> None:
    folder = write_files(tmp_path)
    before = [batches(folder)(n).sources for n in range(3)]
    (folder / "videos/v1.mp4").unlink()
    (folder / "pictures/p2.png").write_bytes(b"not an image")
    after = batches(folder)
    replaced = [after(n).sources for n in range(3)]
    assert [s for b in before for s in b] != [s for b in replaced for s in b]
    for old, new in zip((s for b in before for s in b), (s for b in replaced for s in b)):
        assert new == old or old in ("videos.json:1", "pictures.json:2")
        assert new not in ("videos.json:1", "pictures.json:2")
    assert "no file" in after.bad_records.errors["videos.json:1"]
    assert "pictures/p2.png" in after.bad_records.errors["pictures.json:2"]
    # The same if batches are made in another order, or by two processes.
    assert [batches(folder)(n).sources for n in (2, 1, 0)][::-1] == replaced
    halves = [batches(folder, Shard(p, 2))(1).sources for p in range(2)]
    assert (replaced[1][::2], replaced[1][1::2]) == tuple(halves)


def test_a_record_that_is_too_long_is_bad_and_none_left_ends_the_run(tmp_path: Path) -> None:
    folder = write_files(tmp_path)
    # Conversations about videos are longer: they have a tube.
    some = batches(folder, max_tokens=450)
    sources = [s for n in range(3) for s in some(n).sources]
    assert {s.split(":")[0] for s in sources} == {"pictures.json"}
    assert all("tokens; expected at most 450" in e for e in some.bad_records.errors.values())
    with pytest.raises(DataError, match=r"no good record in the epoch: 6 of 6 are bad"):
        batches(folder, max_tokens=10)(0)


def test_too_many_unreadable_videos_end_the_run(tmp_path: Path) -> None:
    folder = write_files(tmp_path, videos=3)
    for index in range(3):
        (folder / f"videos/v{index}.mp4").write_bytes(b"\0" * 100)
    some = batches(folder)
    some.bad_records.limit = 2
    with pytest.raises(
        DataError,
        match=r"more than 2 bad records: 3 of 6 .*cannot be opened as a video: moov atom not found",
    ):
        [some(number) for number in range(3)]


def film_record(media: Path) -> Record:
    return dataclasses.replace(parse(grounding(), "a.json:0"), media=str(media), split=None)


@pytest.mark.parametrize(
    ("name", "codec", "found"),
    [
        ("a.mkv", "mpeg4", r"of 24 frames are missing; \d+ were read"),
        ("a.avi", "mjpeg", "cannot be decoded: 1"),
    ],
)
def test_a_truncated_video_is_a_bad_record(tmp_path, name: str, codec: str, found: str) -> None:
    path = write_film(tmp_path / name, codec, options={"g": "4"})
    assert len(read_frames(film_record(path), 10, 32).images) == 10
    with pytest.raises(DataError, match=found):
        read_frames(film_record(cut(path, 0.6)), 10, 32)


def test_a_damaged_frame_makes_a_bad_record_only_if_it_is_read(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.avi", "mjpeg")
    position, size = packet_bytes(path)[20]
    record = film_record(overwrite(path, position, size, 0xA5))
    with pytest.raises(DataError, match=r"cannot be decoded: 1 \(1\.00 s: "):
        read_frames(record, 10, 32)
    assert len(read_frames(dataclasses.replace(record, split=(2, 19)), 10, 32).images) == 10


def test_a_folder_of_images_is_read_in_the_order_of_its_numbers_and_noted(tmp_path, capsys) -> None:
    for number in (*range(1, 11), 14):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), 10 * number, np.uint8))
    frames = read_frames(film_record(tmp_path), 11, 8)
    assert frames.images[frames.indices, 0, 0, 0].tolist() == [*range(10, 101, 10), 140]
    log = BadRecordLog(5, log=tmp_path / "log.txt")
    for _ in range(2):
        log.note("a.json:0", frames.notes)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 2
    assert "record a.json:0: 3 numbers are missing, the first after 10.png" in lines[1]
    assert capsys.readouterr().err.splitlines() == lines
    assert not log.errors


def media_record(path: Path, split: tuple[int, int] | None = None) -> Record:
    return Record("a:0", str(path), Modality.VIDEO, (), split)


def test_a_video_a_folder_and_an_array_give_the_same_window(tmp_path: Path) -> None:
    frames = moving_square(4)
    np.save(tmp_path / "a.npy", frames)
    (tmp_path / "folder").mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"folder/{index:03d}.png"), frame[..., ::-1])
    write_files(tmp_path, videos=5, pictures=0)
    indices = frame_indices(0, FRAMES - 1, 10)
    expected = np.stack([resize(frames[i], 24, 24) for i in indices])
    for name in ("a.npy", "folder"):
        read = read_frames(media_record(tmp_path / name), 10, 24)
        np.testing.assert_array_equal(read.images[read.indices], expected)
    read = read_frames(media_record(tmp_path / "videos/v4.mp4"), 10, 24)
    difference = np.abs(read.images[read.indices].astype(int) - expected)
    assert difference.mean() < 4  # MP4 loses a little
    part = read_frames(media_record(tmp_path / "a.npy", (3, 5)), 10, 24)
    assert len(part.images) == 3  # each stored once
    np.testing.assert_array_equal(part.images[part.indices][-1], resize(frames[5], 24, 24))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: None, "No such file"),
        (lambda p: p.write_bytes(b""), "as an array of numpy.save"),
        (lambda p: np.save(p, np.zeros((3, 4, 4), np.uint8)), "expected uint8 [F, H, W, 3]"),
        (lambda p: p.write_bytes(b"\x93NUMPY broken"), "as an array of numpy.save"),
        (lambda p: np.save(p, np.zeros((5, 4, 4, 3), np.uint8)), "5 frames; expected more than 7"),
    ],
)
def test_unusable_media_are_data_errors(tmp_path: Path, spoil, message: str) -> None:
    path = tmp_path / "a.npy"
    spoil(path)
    with pytest.raises(DataError) as caught:
        read_frames(media_record(path, (0, 7)), 10, 24)
    assert message in str(caught.value)


def test_a_damaged_frame_of_a_folder_is_not_skipped_silently(tmp_path: Path) -> None:
    for index, frame in enumerate(moving_square(0)[:3]):
        cv2.imwrite(str(tmp_path / f"{index}.png"), frame)
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="frames that cannot be decoded: 1 "):
        read_frames(media_record(tmp_path), 10, 24)


def test_a_record_is_counted_as_bad_once() -> None:
    bad = BadRecordLog(100, min_bad_records=1)
    for _ in range(3):
        bad.add("a:1", DataError("x; expected y", "z"))
    assert "a:1" in bad and len(bad.errors) == 1
