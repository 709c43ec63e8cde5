"""The guarded YAML loader: YAML 1.2's core schema, and one line of error for everything else."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import yaml

from llava_st_ros.errors import ConfigError
from llava_st_ros.files.limits import DEPTH
from llava_st_ros.files.yaml_files import parse_yaml, read_yaml
from support.paths import ROOT

BILLION_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)
)


def parse(text: str) -> object:
    return parse_yaml(text, "a.yaml", ConfigError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("{a: 1, b: -0.5, c: .5, d: 1e-4, e: 1.5E+3}", {"a": 1, "b": -0.5, "c": 0.5} | {"d": 1e-4}
         | {"e": 1500.0}),
        ("[null, ~, true, False, 'true', \"1\"]", [None, None, True, False, "true", "1"]),
        # Texts of YAML 1.2 that YAML 1.1 reads as false, 8, 90 and a date (an impossible one).
        ("[no, 010, 1:30, 2001-99-99]", ["no", "010", "1:30", "2001-99-99"]),
        ("[!!int '3', !!float 3, !!str 1, ! 1]", [3, 3.0, "1", "1"]),
        ("a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}", {"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 3}}),
        ("a: {<<: [{k: 1}, {k: 2, l: 3}]}\nb: <<", {"a": {"k": 1, "l": 3}, "b": "<<"}),
    ],
)  # fmt: skip
def test_valid_yaml_is_read(text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: " + "[" * 100, "nested more than 64 deep"),
        ("a: " + "[" * 20_000, "nested more than|nesting depth"),
        (BILLION_LAUGHS, "values, with those that aliases repeat"),
        ("a: &a [*a]", "or to itself"),
        ("a: *b", "nothing before it"),
        ("a: !!int x", "'x' is not a value of int"),
        ("a: !!python/object/apply:os.system [x]", "tag .* is not supported"),
        ("a: !mine 1", "tag !mine is not supported"),
        ("1: 2", "key 1 is not text"),
        ("[a]: 2", "key a collection is not text"),
        ("a: 1\na: 2", "line 2, column 1: key 'a' is repeated"),
        ("a: .nan", "not a finite number"),
        ("a: 1e999", "not a finite number"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("a\n---\nb", "second document"),
        ("a: b: c", "line 1, column 5"),
        ("a: \0", "not valid YAML"),
        ("<<: 3", "expects a mapping"),
    ],
)
def test_invalid_yaml_gives_one_line_with_the_files_name(text: str, found: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError, match=found) as caught:
        parse(text)
    assert str(caught.value).startswith("a.yaml is not valid YAML: ")
    assert len(str(caught.value)) < 400
    assert time.monotonic() - start < 5.0


def test_depth_up_to_the_limit_is_accepted() -> None:
    assert parse("[" * DEPTH + "]" * DEPTH)


def test_nan_is_read_where_the_format_has_it() -> None:
    low, nan = parse_yaml("[-.inf, .NaN]", "a", ConfigError, nan=True)
    assert low == -math.inf
    assert math.isnan(nan)


def test_a_file_that_is_not_text_gives_the_callers_error(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\x80seed: 1")
    with pytest.raises(ConfigError, match=r"a\.yaml is not text in UTF-8: byte 0 is invalid"):
        read_yaml(path, ConfigError)
    path.write_bytes(b"\xef\xbb\xbfseed: 1")
    assert read_yaml(path, ConfigError) == {"seed": 1}


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/**/*.yaml")), ids=lambda path: path.name)
def test_the_packages_files_mean_the_same_in_yaml_1_1(path: Path) -> None:
    assert read_yaml(path, ConfigError) == yaml.safe_load(path.read_text(encoding="utf-8"))
