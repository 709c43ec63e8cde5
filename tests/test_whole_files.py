"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_st_ros.whole_files import whole_file, write_text


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.b.json"
    path.write_text("old")
    with whole_file(path) as part:
        assert part.parent == tmp_path and part.suffix == ".json"  # writers go by the suffix
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("begun", [True, False])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, error: BaseException, begun: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as part:
            if begun:
                part.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
