"""The guarded JSON loader: what it accepts, and one line of the caller's error for the rest."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import pytest

from llava_st_ros.errors import CheckpointError, DataError, EngineError
from llava_st_ros.files.json_files import (
    Invalid,
    parse_json,
    read_items,
    read_json,
    read_values,
)
from llava_st_ros.files.limits import DEPTH


def write(folder: Path, content: str | bytes, name: str = "a.json") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'\xef\xbb\xbf{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        ('{"a": "é"}'.encode("utf-16"), {"a": "é"}),
        (b'{"a": 1' + b"0" * 30 + b"}", {"a": 10**30}),
    ],
)
def test_valid_files_are_read(tmp_path: Path, content: bytes, value: object) -> None:
    assert read_json(write(tmp_path, content), DataError) == value


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[" * 200_000, "nested more than"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested more than"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
        ('{"a": 1e999}', "too large"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1, "b": 2, "a": 1}', "'a' is repeated"),
        ("[]", "a list; expected a JSON object"),
        ("{", "line 1"),
        ("", "line 1"),
        (b'{"a": "\xff"}', "byte 7 is invalid"),
        (b"\xff\xfe\x00", "not text"),
    ],
)
def test_invalid_files_give_one_line_with_the_files_name(
    tmp_path: Path, content: str | bytes, found: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(EngineError, match=found) as caught:
        read_json(path, EngineError, "export it again")
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("; export it again")
    assert len(str(caught.value)) < 400


def test_depth_up_to_the_limit_is_accepted() -> None:
    text = "[" * (DEPTH + 1) + "]" * (DEPTH + 1)
    assert parse_json(text, "text", DataError, expected=list)
    with pytest.raises(DataError, match="nested"):
        parse_json(f"[{text}]", "text", DataError, expected=list)


def test_nan_is_read_where_the_format_has_it(tmp_path: Path) -> None:
    values = read_json(
        write(tmp_path, f'{{"a": NaN, "b": -1e999, "c": -{"9" * 400}}}'), DataError, nan=True
    )
    assert math.isnan(values["a"])
    assert values["b"] == values["c"] == -math.inf


@pytest.mark.parametrize("name", ["absent.json", "a\0b", "\ud800", "x" * 300, "."])
def test_files_that_cannot_be_opened_give_the_callers_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        read_json(tmp_path / name, CheckpointError)


def test_a_file_above_the_limit_is_not_parsed(tmp_path: Path) -> None:
    path = write(tmp_path, "[" + " " * (1 << 20) + "]")
    with pytest.raises(DataError, match="larger than 1 MiB"):
        read_json(path, DataError, max_bytes=1 << 20)


def test_an_endless_file_is_not_read_forever() -> None:
    with pytest.raises(DataError, match="larger than"):
        read_json(Path("/dev/zero"), DataError, max_bytes=1 << 20)


def test_one_invalid_record_does_not_make_the_others_unreadable(tmp_path: Path) -> None:
    lines = ['{"id": 1}', "[" * 200_000, '{"a": 1, "a": 2}', '{"id": ' + "9" * 5000 + "}", "{"]
    first, deep, twice, digits, cut = read_values(
        write(tmp_path, "\n".join(lines), "a.jsonl"), DataError
    )
    assert first == {"id": 1}
    assert isinstance(deep, Invalid)
    assert twice == Invalid("key 'a' is repeated")
    assert digits == {"id": math.inf}
    assert isinstance(cut, Invalid)
    listed = read_values(write(tmp_path, '[{"id": 1}, {"a": 1, "a": 2}]'), DataError)
    assert listed == [{"id": 1}, Invalid("key 'a' is repeated")]


def test_a_small_file_takes_little_memory_whatever_the_limit_is(tmp_path: Path) -> None:
    path = write(tmp_path, '[{"id": 1}]', "records.json")
    tracemalloc.start()
    try:
        assert read_values(path, DataError) == [{"id": 1}]  # RECORDS_BYTES are gigabytes
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_items_of_an_object_are_read_with_repeated_names(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": {"b": 1}, "c": {"d": 1, "d": 2}, "a": 3}')
    assert read_items(path, DataError) == [
        ("a", {"b": 1}),
        ("c", Invalid("key 'd' is repeated")),
        ("a", 3),
    ]
    assert read_items(write(tmp_path, "{}"), DataError) == []
    with pytest.raises(DataError, match="is a JSON list; expected an object of records"):
        read_items(write(tmp_path, '[{"a": 1}]'), DataError)
    with pytest.raises(DataError, match="as a JSON object of records"):
        read_items(write(tmp_path, '{"a": 1'), DataError)
