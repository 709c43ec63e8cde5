"""Errors are one readable line, whatever is quoted in them."""

from __future__ import annotations

import pickle

import pytest

from llava_st_ros.errors import MAX_PART_CHARACTERS, ConfigError, LlavaStError


def test_message_is_problem_and_remedy_on_one_line() -> None:
    error = LlavaStError("the file\nhas  two\tlines", "write\n one")
    assert str(error) == "the file has two lines; write one"


def test_control_characters_and_surrogates_are_escaped() -> None:
    error = LlavaStError("id is \x1b[2J\ud800\0")
    assert str(error) == r"id is \x1b[2J\ud800\x00"
    str(error).encode()


def test_accented_text_and_emoji_are_kept() -> None:
    assert str(LlavaStError("find the café \U0001f600")) == "find the café \U0001f600"


@pytest.mark.parametrize("length", [MAX_PART_CHARACTERS, MAX_PART_CHARACTERS + 1, 10**6])
def test_long_message_keeps_its_ends_and_says_how_much_is_left_out(length: int) -> None:
    problem = "value is " + "x" * (length - 19) + " at line 7"
    message = str(LlavaStError(problem))
    assert message.startswith("value is x") and message.endswith("x at line 7")
    if length == MAX_PART_CHARACTERS:
        assert message == problem
    else:
        assert len(message) < MAX_PART_CHARACTERS + 40
        left_out = int(message.split("(")[1].split()[0])
        assert left_out + len(message) - len(f" ... ({left_out} characters) ... ") == length


def test_error_is_unchanged_in_another_process() -> None:
    error = ConfigError("a problem", "a remedy")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ConfigError and str(copy) == str(error) and copy.remedy == "a remedy"
