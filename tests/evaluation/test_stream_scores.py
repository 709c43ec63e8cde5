"""The simulator's ground-truth file."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.stream_scores import read_ground_truth


def test_incomplete_ground_truth_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    with pytest.raises(DataError, match=r"truth\.json"):
        read_ground_truth(path)
    path.write_text('{"queries": [{"id": "q1"}]}')
    with pytest.raises(DataError, match="text"):
        read_ground_truth(path)
