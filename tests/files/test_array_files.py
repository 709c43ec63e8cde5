"""The guarded loaders of NumPy arrays and safetensors."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llava_st_ros.errors import DataError
from llava_st_ros.files import array_files
from llava_st_ros.files.array_files import map_array, read_arrays
from llava_st_ros.files.tensor_file import open_tensors, read_tensors


def npy(header: str, body: bytes = b"") -> bytes:
    """An .npy file of format 1.0 with any header."""
    padded = header.encode() + b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + body


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.zeros((0, 3)), np.array(2.5),
     np.asfortranarray(np.arange(6.0).reshape(2, 3))],
)  # fmt: skip
def test_arrays_are_read_unchanged(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    np.save(path, array)
    assert np.array_equal(map_array(path, DataError), array)
    np.savez_compressed(tmp_path / "a.npz", x=array)
    assert np.array_equal(read_arrays(tmp_path / "a.npz", DataError)["x"], array)


SHAPE = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "header is damaged"),
        (saved(np.arange(100))[:-1], "truncated"),
        (saved(np.array([{}], dtype=object)), "type object; expected numbers"),
        (saved(np.array(["text"])), "expected numbers"),
        (npy(SHAPE % "(100000000000,)", b"xy"), "truncated"),
        (npy(SHAPE % "(-1,)", b"xy"), "its shape is"),
        (npy(SHAPE % ("(" * 200 + ")" * 200)), "header is damaged"),
        (npy("(" * 9000), "header is damaged"),
        (npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,), }"), "damaged"),
        (npy("{1: 2}"), "header is damaged"),
    ],
)
def test_damaged_arrays_give_one_line(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=found) as caught:
        map_array(path, DataError)
    assert str(path) in str(caught.value)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(DataError, match=found):
        read_arrays(tmp_path / "a.npz", DataError)


def test_an_npz_named_npy_is_not_an_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"a\.npy as an array of numpy\.save"):
        map_array(tmp_path / "a.npy", DataError)


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1 << 20, np.uint8))
    monkeypatch.setattr(array_files, "ARCHIVE_BYTES", 1 << 20)
    with pytest.raises(DataError, match="unpacked"):
        read_arrays(tmp_path / "a.npz", DataError)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_damaged_archives_give_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz as arrays"):
        read_arrays(tmp_path / "a.npz", DataError)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, struct.pack("<Q", 2) + b"{}" + b"x",
     struct.pack("<Q", 20_000) + b'{"a":' * 4000,
     struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}       '],
)  # fmt: skip
def test_damaged_safetensors_give_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.safetensors is truncated or not") as caught:
        read_tensors(path, DataError, "download it again")
    assert str(caught.value).endswith("; download it again")


def test_safetensors_are_read_with_their_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file({"x": array}, path, metadata={"k": "v"})
    with open_tensors(path, DataError) as file:
        assert (file.names, file.metadata) == (("x",), {"k": "v"})
        assert file.header("x") == ((2, 3), "F32")
        assert np.array_equal(file.tensor("x"), array)
