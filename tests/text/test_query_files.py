"""Files of queries: one list in several formats, read by the parser of the node's parameter."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_st_ros.errors import QueryError
from llava_st_ros.records import Query, Task
from llava_st_ros.text.query_files import read_query_file
from llava_st_ros.text.query_parser import parse_queries

FILES = {
    "list.json": '["the ball rolls", {"text": "the cup", "task": "REC", "period": 0.5, "id": "c"}]',
    "list.yaml": "- the ball rolls\n- {text: the cup, task: rec, period: 0.5, id: c}\n",
    "mapping.yaml": "queries:\n- the ball rolls\n- text: the cup\n  task: REC\n  period: 0.5\n"
    "  id: c\n",
    "node.yaml": "/**:\n  ros__parameters:\n    model: ''\n    queries:\n    - the ball rolls\n"
    '    - \'{"text": "the cup", "task": "REC", "period": 0.5, "id": "c"}\'\n',
    "robot.yml": "robot:\n  grounding:\n    ros__parameters:\n      queries: [the ball rolls, "
    '\'{"text": "the cup", "task": "REC", "period": 0.5, "id": "c"}\']\n',
}


@pytest.mark.parametrize("name", FILES)
def test_formats_give_the_same_queries(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FILES[name])
    file = read_query_file(path)
    assert len(file.places) == len(file.entries)
    assert parse_queries(file.entries, 2.0, places=file.places) == (
        Query("q1", "the ball rolls", Task.STVG, period=2.0),
        Query("c", "the cup", Task.REC, period=0.5),
    )


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", "model: x\n", "no list of queries"),
        ("a.yaml", "- 12\n", "a.yaml, line 1: the entry is 12"),
        ("a.yaml", "- the ball\n\n- null\n", "a.yaml, line 3: the entry is None"),
        ("a.json", '["the ball", ["x"]]', "a.json, entry 2: the entry is"),
        (
            "a.yaml",
            "- x\n- {text: x, perod: 1}\n",
            "a.yaml, line 2: the query has unknown keys: perod",
        ),
        ("a.yaml", "- {text: x\n", "a.yaml"),
        ("a.yaml", "- x\n- ' '\n", "entry 2: the STVG query has no text"),
        ("a.yaml", "- {text: x, task: SVG}\n", "entry 1: the SVG query has no span"),
        ("a.yaml", "- it's red: really\n", "box; put words that contain ': ' in quotes"),
        (
            "a.yaml",
            "/**: {ros__parameters: {queries: [a]}}\nnode: {ros__parameters: {queries: [b]}}\n",
            "2 lists of queries, of several nodes",
        ),
        ("a.json", "[1, 2", "a.json"),
        ("absent.json", None, "absent.json"),
    ],
)
def test_invalid_file_is_one_line(tmp_path: Path, name: str, text: str | None, reason: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(QueryError) as caught:
        parse_queries(read_query_file(path).entries, 1.0)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_problem_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "# objects of the kitchen\n"
        "queries:\n"
        "  - the cup\n"
        "  - &door\n"
        "    text: the door opens\n"
        "    id: door\n"
        "    task: XVG\n"
        "  - {text: a plate, period: -1}\n"
        "  - *door\n"
    )
    file = read_query_file(path)
    assert file.places == [f"{path}, line {line}" for line in (3, 4, 8, 9)]
    with pytest.raises(QueryError) as caught:
        parse_queries(file.entries, 1.0, places=file.places)
    first, second, third = str(caught.value).split("; " + str(path))
    assert first.startswith(f"{path}, line 4: ") and "XVG" in first
    assert second.startswith(", line 8: ") and "period" in second
    assert third.startswith(", line 9: ") and "XVG" in third
