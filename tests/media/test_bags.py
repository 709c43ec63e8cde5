"""Recordings as recorders, users and power cuts leave them: read, and losses reported."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sqlite3
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from llava_st_ros.errors import DataError
from llava_st_ros.media.bags import Bag
from llava_st_ros.media.sources import BagSource
from llava_st_ros.records import NANOSECONDS
from support.bags import (
    IMAGE,
    START,
    STEP,
    TOPIC,
    edit_metadata,
    image_message,
    images,
    join_recordings,
    pixels,
    storage_file,
    write_mcap,
    write_recording,
)

PLUGINS = [StoragePlugin.SQLITE3, StoragePlugin.MCAP]
BOTH = pytest.mark.parametrize("plugin", PLUGINS, ids=["sqlite3", "mcap"])
COUNT = 20
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of COUNT images in an MCAP file."""
    return write_recording(tmp_path / "bag", StoragePlugin.MCAP, images(COUNT))


def indices(source: BagSource) -> list[int]:
    """Read a source; which of the images of ``support.bags`` it yields, in order."""
    found = []
    for frame in source:
        index, remainder = divmod(frame.stamp - START, STEP)
        assert remainder == 0
        np.testing.assert_array_equal(frame.image, pixels(index))
        found.append(index)
    return found


def read_unchanged(path: Path, topic: str | None = None) -> tuple[list[int], BagSource]:
    """Read a bag, and check that nothing in its folder has changed or is new."""
    folder = path if path.is_dir() else path.parent
    before = {file: file.read_bytes() for file in folder.iterdir()}
    source = BagSource(path, topic)
    found = indices(source)
    assert indices(source) == found  # it can be read again
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    return found, source


def try_to_open(path: Path) -> BagSource | None:
    """Open a bag; None if nothing in it is readable, which the error must explain."""
    try:
        return BagSource(path)
    except DataError as error:
        return None if "truncated" in error.problem else pytest.fail(error.problem)


def said(source: BagSource) -> str:
    return " | ".join(source.notes)


@BOTH
def test_qos_of_metadata_and_storage_may_differ(tmp_path: Path, plugin) -> None:
    bag = write_recording(tmp_path / "bag", plugin, images(COUNT))
    text = (bag / "metadata.yaml").read_text()
    edited = text.replace("reliability: 1", "reliability: 2")
    assert edited != text
    (bag / "metadata.yaml").write_text(edited)
    found, source = read_unchanged(bag)
    assert found == list(range(COUNT))
    assert not source.notes


@BOTH
def test_parts_with_other_qos_in_any_order_are_one_recording(tmp_path: Path, plugin) -> None:
    first = write_recording(tmp_path / "a", plugin, images(10), reliable=True)
    second = write_recording(tmp_path / "b", plugin, images(10, first=10), reliable=False)
    found, source = read_unchanged(join_recordings(tmp_path / "bag", [second, first]))
    assert found == list(range(20))
    assert source.length == 20
    assert not source.notes


def test_parts_that_overlap_in_time_are_read_in_the_order_of_recording(tmp_path: Path) -> None:
    even = [m for i, m in enumerate(images(20)) if i % 2 == 0]
    odd = [m for i, m in enumerate(images(20)) if i % 2 == 1]
    parts = [
        write_recording(tmp_path / "a", StoragePlugin.MCAP, even),
        write_recording(tmp_path / "b", StoragePlugin.MCAP, odd),
    ]
    assert indices(BagSource(join_recordings(tmp_path / "bag", parts))) == list(range(20))


@BOTH
def test_fewer_messages_than_metadata_counts_is_said(tmp_path: Path, plugin) -> None:
    first = write_recording(tmp_path / "a", plugin, images(10))
    second = write_recording(tmp_path / "b", plugin, images(7, first=10))
    bag = join_recordings(tmp_path / "bag", [first, second])
    next(bag.glob("bag_1.*")).unlink()
    found, source = read_unchanged(bag)
    assert found == list(range(10))
    assert f"counts 17 messages on {TOPIC}; the storage files contain 10" in said(source)
    assert "bag_1" in said(source) and "is missing; it counts 8 messages" in said(source)


def with_wal(folder: Path, kept: int) -> Path:
    """A recording of COUNT images, of which all but ``kept`` are in the write-ahead log only."""
    source = write_recording(folder / "source", StoragePlugin.SQLITE3, images(COUNT))
    bag = folder / "wal"
    bag.mkdir()
    name = storage_file(source).name
    shutil.copy(storage_file(source), folder / "live.db3")
    live = sqlite3.connect(folder / "live.db3")
    live.execute("PRAGMA journal_mode = wal")
    live.execute("PRAGMA wal_autocheckpoint = 0")
    rows = live.execute("SELECT * FROM messages ORDER BY id").fetchall()
    live.execute("DELETE FROM messages WHERE id > ?", (kept,))
    live.commit()
    live.execute("PRAGMA wal_checkpoint(truncate)")
    live.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", rows[kept:])
    live.commit()
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(folder / f"live.db3{suffix}", bag / f"{name}{suffix}")
    live.close()
    shutil.copy(source / "metadata.yaml", bag)
    return bag


def test_messages_in_a_write_ahead_log_are_read(tmp_path: Path) -> None:
    bag = with_wal(tmp_path, kept=12)
    found, source = read_unchanged(bag)
    assert found == list(range(COUNT))
    assert "was not closed; it is read with source.db3-wal" in said(source)
    (file,) = bag.glob("*.db3")
    assert indices(BagSource(file)) == found
    link = tmp_path / "link.db3"
    link.symlink_to(file)
    assert indices(BagSource(link)) == found
    # Without its log, the database is complete up to the last checkpoint.
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink()
    found, source = read_unchanged(bag)
    assert found == list(range(12))
    assert f"counts {COUNT} messages on {TOPIC}; the storage files contain 12" in said(source)


def test_a_write_ahead_log_beside_a_symbolic_link_is_read(tmp_path: Path) -> None:
    """As in a store of files by their content, where a link's target has another name."""
    bag = with_wal(tmp_path, kept=12)
    store = tmp_path / "store"
    store.mkdir()
    for number, file in enumerate(sorted(bag.iterdir())):
        (store / str(number)).write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(store / str(number))
    assert read_unchanged(bag)[0] == list(range(COUNT))


def test_an_interrupted_transaction_is_rolled_back_in_a_copy(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.SQLITE3, images(COUNT))
    file = storage_file(bag)
    live = sqlite3.connect(file, isolation_level=None)
    live.execute("PRAGMA cache_size = 1")
    live.execute("BEGIN")
    live.execute("UPDATE messages SET timestamp = 0, data = zeroblob(5000)")
    journal = file.with_name(file.name + "-journal")
    crashed = {path.name: path.read_bytes() for path in (file, journal)}
    live.execute("ROLLBACK")
    live.close()
    for name, content in crashed.items():
        (bag / name).write_bytes(content)
    assert b"\0" * 4000 in crashed[file.name]  # the file alone is not the recording
    found, source = read_unchanged(bag)
    assert found == list(range(COUNT))
    assert "-journal" in said(source)


@BOTH
@pytest.mark.parametrize("identifier", ["", "other"])
def test_the_storage_is_recognized_by_its_content(tmp_path: Path, plugin, identifier) -> None:
    """`ros2 bag reindex` of Humble leaves storage_identifier empty."""
    bag = write_recording(tmp_path / "bag", plugin, images(COUNT))
    edit_metadata(bag, storage_identifier=identifier)
    found, source = read_unchanged(bag)
    assert found == list(range(COUNT)) and not source.notes


@BOTH
def test_a_folder_without_metadata_is_read_if_its_files_can_only_be_one_recording(
    tmp_path: Path, plugin
) -> None:
    parts = [write_recording(tmp_path / str(i), plugin, images(5, first=5 * i)) for i in range(3)]
    bag = join_recordings(tmp_path / "bag", parts)
    for folder in (bag, parts[0]):
        (folder / "metadata.yaml").unlink()
    found, source = read_unchanged(parts[0])
    assert found == list(range(5))
    assert "metadata.yaml: reading 0." in said(source)

    assert indices(BagSource(bag)) == list(range(15))
    suffix = storage_file(parts[0]).suffix
    (bag / f"bag_1{suffix}").unlink()
    source = BagSource(bag)
    assert indices(source) == [*range(5), *range(10, 15)]
    assert "parts [1] of the recording are missing" in said(source)

    shutil.copy(storage_file(parts[1]), bag / f"other{suffix}")
    with pytest.raises(
        DataError, match=r"several recordings or parts: bag_0.*other.*; name one of them"
    ):
        BagSource(bag)


@pytest.mark.parametrize(
    "names", [("10_00_10", "10_00_15"), ("2024_01", "2024_02"), ("a_0", "b_1")]
)
def test_recordings_named_by_time_are_not_joined(tmp_path: Path, names) -> None:
    for index, name in enumerate(names):
        write_mcap(tmp_path / f"{name}.mcap", images(3, first=3 * index))
    with pytest.raises(DataError, match="several recordings or parts"):
        BagSource(tmp_path)


@pytest.mark.parametrize("listed", ["parts/a.mcap", "old\\a.mcap", "/home/me/bag/a.mcap.zstd"])
def test_paths_in_metadata_of_any_machine_and_version(recording: Path, listed: str) -> None:
    folder = recording / "parts" if listed.startswith("parts") else recording
    folder.mkdir(exist_ok=True)
    storage_file(recording).rename(folder / "a.mcap")
    edit_metadata(recording, relative_file_paths=[listed, "x" * 300, "y\0", "../bag/a.mcap"])
    source = BagSource(recording)
    assert indices(source) == list(range(COUNT))
    assert "a.mcap, which" not in said(source) or folder != recording
    edit_metadata(recording, relative_file_paths=["absent.mcap"])
    if folder != recording:
        with pytest.raises(DataError, match=r"no .mcap or .db3 file; absent.mcap, which"):
            BagSource(recording)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 20000,
        b"rosbag2_bagfile_information: 3",
        b"rosbag2_bagfile_information: {relative_file_paths: 3}",
        b"rosbag2_bagfile_information: {relative_file_paths: [[1]]}",
        b"rosbag2_bagfile_information: {relative_file_paths: bag.mcap}",
        b"rosbag2_bagfile_information: {relative_file_paths: []}",
        b"rosbag2_bagfile_information: {relative_file_paths: [bag.mcap], files: [{path: bag.mcap,"
        b" message_count: many}]}",
        b"rosbag2_bagfile_information: {relative_file_paths: [../../etc/passwd]}",
        b"!!python/object/apply:os.system [exit]",
        b"x: " + b"9" * 5000,
    ],
)
def test_damaged_metadata_does_not_prevent_reading(recording: Path, content: bytes) -> None:
    (recording / "metadata.yaml").write_bytes(content)
    found, source = read_unchanged(recording)
    assert found == list(range(COUNT))
    assert "metadata.yaml" in said(source) and "reading bag.mcap" in said(source)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(recording: Path) -> None:
    (recording / "metadata.yaml").unlink()
    os.mkfifo(recording / "metadata.yaml")
    source = BagSource(recording)
    assert indices(source) == list(range(COUNT))
    assert "there is no file" in said(source)
    os.mkfifo(recording / "other.mcap")
    with pytest.raises(DataError, match=r"other.mcap is not a file"):
        BagSource(recording / "other.mcap")


def test_hidden_files_and_folders_are_no_parts(recording: Path) -> None:
    (recording / "._bag.mcap").write_bytes(b"AppleDouble")
    (recording / "more.mcap").mkdir()
    source = BagSource(recording)
    assert indices(source) == list(range(COUNT)) and not source.notes
    (recording / "metadata.yaml").unlink()
    assert "reading bag.mcap" in said(BagSource(recording))


def test_another_type_or_more_messages_than_in_metadata_is_said(recording: Path) -> None:
    metadata = recording / "metadata.yaml"
    original = metadata.read_text()
    metadata.write_text(original.replace(IMAGE, COMPRESSED_IMAGE))
    found, source = read_unchanged(recording)
    assert found == list(range(COUNT))
    assert f"says that {TOPIC} has type sensor_msgs/msg/CompressedImage; it has type" in said(
        source
    )
    metadata.write_text(original.replace(f"message_count: {COUNT}", "message_count: 3"))
    found, source = read_unchanged(recording)
    assert found == list(range(COUNT))
    assert f"counts 3 messages on {TOPIC}; the storage files contain {COUNT}" in said(source)


def test_storage_files_that_metadata_does_not_list_are_said(recording: Path) -> None:
    shutil.copy(storage_file(recording), recording / "copy.mcap")
    source = BagSource(recording)
    assert indices(source) == list(range(COUNT))
    assert "copy.mcap is not read: metadata.yaml does not list it" in said(source)


def test_a_renamed_storage_file_is_read(recording: Path) -> None:
    storage_file(recording).rename(recording / "renamed.mcap")
    found, source = read_unchanged(recording)
    assert found == list(range(COUNT))
    assert "bag.mcap, which metadata.yaml lists, is missing" in said(source)
    assert "reading renamed.mcap instead" in said(source)


def test_one_unreadable_part_does_not_prevent_reading_the_others(tmp_path: Path) -> None:
    parts = [write_recording(tmp_path / str(i), StoragePlugin.SQLITE3, images(5, first=5 * i))
             for i in range(3)]  # fmt: skip
    bag = join_recordings(tmp_path / "bag", parts)
    (bag / "bag_1.db3").write_bytes(b"")
    found, source = read_unchanged(bag)
    assert found == [*range(5), *range(10, 15)]
    assert "bag_1.db3 is empty" in said(source) and "contain 10" in said(source)


@BOTH
def test_compressed_messages_are_read_also_without_metadata(tmp_path: Path, plugin) -> None:
    mode = CompressionMode.MESSAGE
    bag = write_recording(tmp_path / "bag", plugin, images(COUNT), compression=mode)
    assert read_unchanged(bag)[0] == list(range(COUNT))
    assert read_unchanged(storage_file(bag))[0] == list(range(COUNT))


@BOTH
def test_compressed_files_are_read_as_folder_and_alone(tmp_path: Path, plugin) -> None:
    bag = write_recording(tmp_path / "bag", plugin, images(COUNT))
    file = storage_file(bag)
    compressed = file.with_name(file.name + ".zstd")
    compressed.write_bytes(zstandard.compress(file.read_bytes()))
    file.unlink()
    # metadata.yaml has the name without .zstd, as where a recorder was killed.
    found, source = read_unchanged(bag)
    assert found == list(range(COUNT)) and not source.notes
    assert read_unchanged(compressed)[0] == list(range(COUNT))


def test_a_truncated_compressed_file_is_read_up_to_the_cut(tmp_path: Path) -> None:
    plain = write_mcap(tmp_path / "a.mcap", images(COUNT), compression=CompressionType.NONE)
    data = plain.read_bytes()
    pieces = [zstandard.compress(data[i : i + 1000]) for i in range(0, len(data), 1000)]
    whole = b"".join(pieces)
    cut = tmp_path / "cut.mcap.zstd"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    source = BagSource(cut)
    found = indices(source)
    assert found == list(range(len(found))) and COUNT // 2 < len(found) < COUNT
    assert "zstd data are truncated" in said(source)


@pytest.mark.parametrize("profile", ["", "ros2", "x"])
def test_the_mcap_profile_does_not_matter(tmp_path: Path, profile: str) -> None:
    """Foxglove's SDK writes none; some writers omit "msg" in the type."""
    path = write_mcap(
        tmp_path / "a.mcap", images(COUNT), profile=profile, message_type="sensor_msgs/Image"
    )
    found, source = read_unchanged(path)
    assert found == list(range(COUNT)) and not source.notes


@pytest.mark.parametrize(
    "options",
    [
        {"use_chunking": False},
        {"index_types": IndexType.NONE},
        {"index_types": IndexType.NONE, "repeat_channels": False, "repeat_schemas": False,
         "use_statistics": False, "use_summary_offsets": False},
        {"index_types": IndexType.MESSAGE},
        {"index_types": IndexType.CHUNK},
        {"compression": CompressionType.LZ4},
        {},
    ],
)  # fmt: skip
def test_mcap_with_any_index_and_order_is_read_in_the_order_of_recording(
    tmp_path: Path, options
) -> None:
    shuffled = list(images(COUNT))
    np.random.default_rng(0).shuffle(shuffled)
    found, source = read_unchanged(write_mcap(tmp_path / "a.mcap", shuffled, **options))
    assert found == list(range(COUNT)) and not source.notes


@pytest.mark.parametrize(
    "compression", [CompressionType.NONE, CompressionType.ZSTD, CompressionType.LZ4]
)
def test_a_truncated_mcap_is_read_up_to_the_cut(recording: Path, compression) -> None:
    file = storage_file(recording)
    file.unlink()
    data = write_mcap(file, images(COUNT), compression=compression).read_bytes()
    counts = []
    for length in range(200, len(data), 211):
        file.write_bytes(data[:length])
        source = try_to_open(recording)
        if source is None:  # no image precedes the cut
            assert not counts
            continue
        found = indices(source)
        assert found == list(range(len(found)))
        assert f"{file.name} is truncated" in said(source)
        if len(found) < COUNT:
            assert f"metadata.yaml counts {COUNT} messages on {TOPIC}" in said(source)
        counts.append(len(found))
    assert counts == sorted(counts) and counts[-1] == COUNT
    if compression is CompressionType.NONE:  # images before the cut in the last chunk are read too
        assert len(set(counts)) > COUNT * 2 // 3


def test_a_truncated_database_is_read_as_far_as_it_is_readable(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.SQLITE3, images(200))
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    found, source = read_unchanged(bag)
    assert found == sorted(found) and 50 < len(found) < 200
    assert f"{file.name} is damaged" in said(source)
    missing = 200 - len(found) - source.dropped
    if missing:
        assert f"the storage files contain {200 - missing}" in said(source)


def chunk_offsets(data: bytes) -> list[int]:
    """Where the chunks of an MCAP file start."""
    offsets, position = [], 8
    while position < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, position)
        if opcode == 0x06:
            offsets.append(position)
        position += 9 + length
    return offsets


def test_a_damaged_chunk_costs_only_its_own_messages(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", images(COUNT), compression=CompressionType.NONE)
    data = bytearray(path.read_bytes())
    second = chunk_offsets(data)[1]
    data[second + 200] ^= 1  # its checksum is wrong now
    path.write_bytes(data)
    found, source = read_unchanged(path)
    lost = COUNT - len(found)
    assert 1 <= lost <= 4 and source.dropped == lost
    assert f"damaged at byte {second}: its checksum is wrong; {lost} messages are lost" in said(
        source
    )

    data[second + 200] ^= 1
    struct.pack_into("<Q", data, second + 1, 1 << 40)  # its length
    path.write_bytes(data)
    found, source = read_unchanged(path)
    assert COUNT - len(found) == lost
    assert f"the statistics of a.mcap count {COUNT} messages on {TOPIC}" in said(source)


def test_channels_of_a_damaged_first_chunk_are_still_known(tmp_path: Path) -> None:
    path = write_mcap(
        tmp_path / "a.mcap",
        images(COUNT),
        compression=CompressionType.NONE,
        index_types=IndexType.NONE,
        repeat_channels=False,
        repeat_schemas=False,
        use_statistics=False,
    )
    data = bytearray(path.read_bytes())
    first, second = chunk_offsets(data)[:2]
    data[second - 5] ^= 1
    path.write_bytes(data)
    source = BagSource(path)
    assert indices(source) == list(range(COUNT))[-len(indices(source)) :]
    assert f"damaged at byte {first}" in said(source)


def test_lengths_that_damaged_records_declare_take_no_memory(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", images(COUNT), compression=CompressionType.ZSTD)
    data = (tmp_path / "a.mcap").read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for offset in chunk_offsets(data)[:2]:
        for field in (1, 9 + 16, 9 + 28, 9 + 36):  # record, content, compression's name, data
            for value in (1 << 63, 1 << 40, 1 << 31):
                damaged = bytearray(data)
                struct.pack_into("<Q", damaged, offset + field, value)
                (tmp_path / "a.mcap").write_bytes(damaged)
                source = BagSource(tmp_path / "a.mcap")
                assert len(indices(source)) >= COUNT - 8
                assert source.notes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_copy_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "a.mcap.zstd"
    bomb.write_bytes(zstandard.compress(b"\x89MCAP0\r\n" + bytes(8 << 20)))
    usage = shutil.disk_usage(tmp_path)._replace(free=4 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"larger than the 3 MiB .*; set TMPDIR to a folder"):
        BagSource(bomb)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"wal/source.db3 is read from a temporary copy"):
        BagSource(with_wal(tmp_path, kept=12))


def test_data_behind_the_end_are_said(tmp_path: Path) -> None:
    """As after ``cat a.mcap b.mcap``."""
    path = write_mcap(tmp_path / "a.mcap", images(COUNT))
    data = path.read_bytes()
    path.write_bytes(data * 2)
    found, source = read_unchanged(path)
    assert found == list(range(COUNT))
    assert f"a.mcap has {len(data)} bytes behind its end; they are not read" in said(source)


def test_a_message_that_is_too_large_when_decompressed_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_st_ros.media.bags.compression.MAX_MESSAGE_BYTES", 1 << 20)
    bomb = zstandard.compress(bytes(4 << 20))
    bag = write_recording(
        tmp_path / "bag", StoragePlugin.MCAP, [*images(3), (START + 3 * STEP, bomb)]
    )
    source = BagSource(bag)
    assert indices(source) == [0, 1, 2]
    assert source.dropped == 1
    assert "more than 1 MiB when decompressed" in source.problem


@BOTH
def test_messages_that_do_not_parse_are_counted(tmp_path: Path, plugin) -> None:
    good = image_message(3)
    bad = [b"", b"\0\1\0\0", good[:-9], good[:40], b"\xff" * 60, b"\0\1\0\0" + b"\xff" * 60]
    messages = [*images(3), *((START + 3 * STEP, data) for data in bad), *images(3, first=4)]
    found, source = read_unchanged(write_recording(tmp_path / "bag", plugin, messages))
    assert found == [0, 1, 2, 4, 5, 6]
    assert source.dropped == len(bad)
    assert f"is not a {IMAGE}" in source.problem


@BOTH
def test_messages_of_another_type_than_declared_are_no_images(tmp_path: Path, plugin) -> None:
    bag = write_recording(tmp_path / "bag", plugin, images(3), message_type=COMPRESSED_IMAGE)
    source = BagSource(bag)
    with pytest.raises(
        DataError, match=rf"3 unreadable; last error: .* is not a {COMPRESSED_IMAGE}"
    ):
        list(source)


def test_big_endian_messages_are_read(tmp_path: Path) -> None:
    messages = [(START + i * STEP, image_message(i, little_endian=False)) for i in range(3)]
    assert messages[0][1][:2] == b"\0\0"
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, messages)
    assert indices(BagSource(bag)) == [0, 1, 2]


@BOTH
def test_times_before_1970_keep_their_order(tmp_path: Path, plugin) -> None:
    """They occur where a robot's clock is not set; MCAP stores times without a sign."""
    times = [-2 * NANOSECONDS, -1, 0, NANOSECONDS]
    stamps = [-2 * NANOSECONDS - 5, -6, 1, NANOSECONDS + 5]
    if plugin is StoragePlugin.MCAP:
        messages = [(t % (1 << 64), image_message(0, stamp=s)) for t, s in zip(times, stamps)]
        path = write_mcap(tmp_path / "a.mcap", reversed(messages))
    else:
        messages = [(t, image_message(0, stamp=s)) for t, s in zip(times, stamps)]
        path = write_recording(tmp_path / "bag", plugin, reversed(messages))
    bag = Bag(path)
    read = list(bag.images(bag.image_topic()))
    assert [message.recorded for message in read] == times
    assert [message.stamp for message in read] == stamps
    assert [frame.arrival for frame in BagSource(path)] == times


def test_header_stamps_and_times_of_recording_are_never_mixed(tmp_path: Path) -> None:
    recorded = [START + i * STEP for i in range(150)]
    boot = [(i + 1) * STEP for i in range(150)]  # the camera's clock starts at boot

    def source(stamps: list[int]) -> BagSource:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        messages = [(r, image_message(0, stamp=s)) for r, s in zip(recorded, stamps)]
        return BagSource(write_recording(path, StoragePlugin.MCAP, messages))

    late = source([0, 0, *boot[2:]])
    assert [frame.stamp for frame in late] == boot[2:]
    assert late.dropped == 2 and "header stamp 0 s, 0 ns" in late.problem and not late.notes
    for stamps in ([0] * 150, [0] * 100 + boot[100:]):
        unstamped = source(stamps)
        assert [frame.stamp for frame in unstamped] == recorded
        assert unstamped.dropped == 0
        assert f"messages on {TOPIC} have no header stamp" in said(unstamped)


@BOTH
def test_topics_without_messages(tmp_path: Path, plugin) -> None:
    empty = write_recording(tmp_path / "empty", plugin, [])
    for name in (None, TOPIC):
        with pytest.raises(DataError, match=r"no messages|no image topics with messages"):
            BagSource(empty, name)
    other = write_recording(
        tmp_path / "other", plugin, images(2), message_type="std_msgs/msg/Empty"
    )
    with pytest.raises(DataError, match=rf"other topics: {TOPIC}: std_msgs/msg/Empty") as caught:
        BagSource(other)
    assert "--topic" not in str(caught.value)  # there is none to choose


@BOTH
def test_odd_names_of_topics_and_folders(tmp_path: Path, plugin) -> None:
    folder = tmp_path / "a b ü 50%25 #1?mode=rw&x"
    folder.mkdir()
    topic = "/ünï/cam\n1; DROP TABLE messages"
    bag = folder / "b%41g"
    shutil.move(write_recording(tmp_path / "bag", plugin, images(COUNT), topic=topic), bag)
    for path in (bag, storage_file(bag)):
        found, source = read_unchanged(path, topic)
        assert found == list(range(COUNT))
        assert "\n" not in said(source)
    link = tmp_path / "link"
    link.symlink_to(bag)
    assert indices(BagSource(link)) == list(range(COUNT))


def test_other_files_are_rejected_with_what_they_are(tmp_path: Path) -> None:
    cases = {
        "empty.mcap": (b"", "is empty"),
        "old.bag": (b"#ROSBAG V2.0\n" + bytes(50), "ROS 1 bag: convert it with `rosbags-convert`"),
        "text.mcap": (b"hello", "neither an MCAP nor an SQLite file"),
        "text.db3": (b"hello", "neither an MCAP nor an SQLite file"),
        "bad.mcap.zstd": (b"\x28\xb5\x2f\xfd" + b"\xff" * 50, "cannot be decompressed"),
        "metadata.yaml": (b"{}", "name its folder"),
    }
    for name, (content, expected) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=expected) as caught:
            BagSource(tmp_path / name)
        for wrong_advice in ("reindex", "mcap recover"):
            assert wrong_advice not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        BagSource(tmp_path / ("x" * 300))
    database = sqlite3.connect(tmp_path / "other.db3")
    database.execute("CREATE TABLE x (y)")
    database.close()
    for query in ("SELECT 1", "CREATE TABLE topics (id, name, type, serialization_format)",
                  "CREATE VIEW messages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL"
                  " SELECT i + 1 FROM n) SELECT i FROM n"):  # fmt: skip
        with contextlib.closing(sqlite3.connect(tmp_path / "other.db3")) as database:
            database.execute(query)
        with pytest.raises(DataError, match=r"no tables topics and messages"):
            BagSource(tmp_path / "other.db3")
    (tmp_path / "other.db3").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(DataError, match="not a readable SQLite database of rosbag2"):
        BagSource(tmp_path / "other.db3")


@BOTH
@pytest.mark.parametrize("kind", ["flip", "cut", "zero", "insert"])
def test_no_mutation_loses_messages_in_silence(tmp_path: Path, plugin, kind: str) -> None:
    bag = write_recording(tmp_path / "bag", plugin, images(COUNT))
    file, rng = storage_file(bag), np.random.default_rng(zlib.crc32(f"{plugin}{kind}".encode()))
    data = file.read_bytes()
    for _ in range(40):
        damaged = bytearray(data)
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 200))
        if kind == "flip":
            damaged[at] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del damaged[at:]
        elif kind == "zero":
            damaged[at : at + length] = bytes(len(damaged[at : at + length]))
        else:
            damaged[at:at] = rng.bytes(length)
        file.write_bytes(damaged)
        with contextlib.suppress(DataError):  # nothing is readable
            source = BagSource(bag)
            frames = len(indices(source) if kind == "cut" else list(source))
            assert frames <= COUNT
            assert frames + source.dropped >= COUNT or source.notes


def test_file_names_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.SQLITE3, images(3))
    file = storage_file(bag).rename(tmp_path / ("x" * 251 + ".db3"))
    assert indices(BagSource(file)) == [0, 1, 2]


def test_errors_name_many_faults_in_bounded_length(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", images(200), compression=CompressionType.NONE)
    data = bytearray(path.read_bytes())
    for offset in chunk_offsets(data)[1:]:
        data[offset + 200] ^= 1
    path.write_bytes(data)
    source = BagSource(path)
    list(source)
    assert len(source.notes) == 21
    assert source.notes[-1].endswith("further faults")


def test_a_recording_of_two_channels_per_topic_is_complete(tmp_path: Path) -> None:
    """A publisher that restarts with other QoS gets a channel of its own."""
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = McapWriter(file, chunk_size=800)
        writer.start()
        schema = writer.register_schema(IMAGE, "ros2msg", b"")
        channels = [
            writer.register_channel(TOPIC, "cdr", schema, {"offered_qos_profiles": qos})
            for qos in ("- reliability: 1", "- reliability: 2")
        ]
        other = writer.register_channel("/json", "json", schema)
        for index, (recorded, data) in enumerate(images(COUNT)):
            writer.add_message(channels[index % 2], recorded, data, recorded)
            writer.add_message(other, recorded, json.dumps({}).encode(), recorded)
        writer.finish()
    found, source = read_unchanged(tmp_path / "a.mcap")
    assert found == list(range(COUNT)) and not source.notes
    with pytest.raises(DataError, match=r"/json .* has type sensor_msgs/msg/Image \(json\)"):
        BagSource(tmp_path / "a.mcap", "/json")
