"""LogThrottle: suppressed lines are counted, severities are independent, memory is bounded."""

from __future__ import annotations

import ast
import itertools

import pytest

from llava_st_ros.ros.log_throttle import MAX_KEYS, LogThrottle
from support.paths import ROOT


class Lines(list):
    """A logger that keeps its lines."""

    def warning(self, message: str) -> None:
        self.append(("warning", message))

    def error(self, message: str) -> None:
        self.append(("error", message))


def test_suppressed_lines_are_counted() -> None:
    now, lines = [0.0], Lines()
    throttle = LogThrottle(lines, 5.0, lambda: now[0])
    for i in range(4):
        throttle.warning("a", f"a{i}")
        throttle.warning("b", f"b{i}")
    assert lines == [("warning", "a0"), ("warning", "b0")]
    now[0] = 5.0
    throttle.warning("a", "a4")
    assert lines[2:] == [("warning", "a4 (3 more suppressed)")]


def test_a_warning_does_not_suppress_an_error_with_its_key() -> None:
    lines = Lines()
    throttle = LogThrottle(lines, 5.0, lambda: 0.0)
    throttle.warning("a", "slow")
    throttle.error("a", "failed")
    assert lines == [("warning", "slow"), ("error", "failed")]


def test_memory_is_bounded_and_no_count_is_lost() -> None:
    now, lines = [0.0], Lines()
    throttle = LogThrottle(lines, 5.0, lambda: now[0])
    for i in range(10 * MAX_KEYS):
        throttle.warning(f"query {i}", "failed")
        throttle.warning(f"query {i}", "failed again")
    assert len(throttle._last) == MAX_KEYS
    assert len(throttle._suppressed) <= MAX_KEYS
    now[0] = 10.0
    for i in range(9 * MAX_KEYS, 10 * MAX_KEYS):
        throttle.warning(f"query {i}", "failed")
    counts = [int(line.split("(")[1].split()[0]) for _, line in lines if "(" in line]
    assert sum(counts) == 10 * MAX_KEYS


@pytest.mark.parametrize("order", list(itertools.permutations(("warning", "error"))))
def test_both_severities_are_logged_by_rclpy(order: tuple[str, ...]) -> None:
    logging = pytest.importorskip("rclpy.logging", reason="needs ROS 2: scripts/with_ros")
    throttle = LogThrottle(logging.get_logger("throttle_test"), 0.0)
    for severity in (*order, *order):
        getattr(throttle, severity)("a", "a line")


def test_no_logger_method_is_passed_to_a_function() -> None:
    """Its one source line could then log at two severities, which rclpy answers with ValueError."""
    severities = {"debug", "info", "warning", "warn", "error", "fatal"}
    passed = []
    for path in sorted((ROOT / "llava_st_ros" / "ros").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        passed += [
            f"{path.name}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in severities
            and "logger" in ast.unparse(node.value)
            and id(node) not in called
        ]
    assert not passed
