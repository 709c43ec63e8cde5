"""Footage for int8 calibration: the topic of a bag, and how its faults are reported."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from llava_st_ros.cli import export
from llava_st_ros.errors import ConfigError, DataError
from llava_st_ros.evaluation.replay import ReplayResult
from llava_st_ros.export import calibration
from llava_st_ros.export.calibration import FootageQueries
from llava_st_ros.media.sources import BagSource
from support.bags import IMAGE, START, STORE, edit_metadata, images, write_recording


@pytest.fixture
def two_cameras(tmp_path: Path) -> Path:
    """A recording with two image topics."""
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic in ("/left", "/right"):
            connection = writer.add_connection(topic, IMAGE, typestore=STORE)
            for recorded, data in images(3):
                writer.write(connection, recorded, data)
    return tmp_path / "bag"


def parse(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return parser.parse_args([str(a) for a in arguments])


def test_the_topic_of_a_bag_can_be_chosen(two_cameras: Path, tmp_path: Path) -> None:
    """The error names an option that export has."""
    arguments = ("--out", tmp_path / "out", "--precision", "int8", "--query", "a cup")
    footage = ("--calibrate", two_cameras)
    for topic in ((), ("--topic", "/rear")):
        with pytest.raises(DataError, match=r"/left .*/right .*; choose one with --topic"):
            export.run(parse(*arguments, *footage, *topic))
    args = parse(*arguments, *footage, "--topic", "/right")
    queries = FootageQueries(args.calibrate, args.query, args.topic)
    assert queries.topic == "/right"
    with pytest.raises(ConfigError, match="--topic requires --calibrate"):
        export.run(parse("--out", tmp_path / "out", "--precision", "int8", "--topic", "/right"))
    assert not (tmp_path / "out").exists()


def test_faults_of_the_footage_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_recording(tmp_path / "bag", StoragePlugin.MCAP, [*images(3), (START, b"damaged")])
    edit_metadata(bag, storage_identifier="")
    (bag / "extra.mcap").write_bytes(b"")

    def replay(grounder: Any, source: BagSource, *_: Any, **__: Any) -> ReplayResult:
        return ReplayResult(stamps=[frame.stamp for frame in source])

    monkeypatch.setattr(calibration, "replay", replay)
    monkeypatch.setattr(calibration, "Grounder", lambda *_: None)
    monkeypatch.setattr(calibration, "require_tokenizer", lambda *_: None)
    notes: list[str] = []
    FootageQueries([bag], ["a cup"], on_note=notes.append)(cast(Any, None), None)
    assert [note for note in notes if note.startswith(f"{bag}: 1 frames dropped; last: ")]
    assert [note for note in notes if "extra.mcap is not read" in note]
