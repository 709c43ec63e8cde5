"""A minute of fuzzing with a fixed seed.

``make fuzz`` runs for longer and with other seeds (docs/reliability.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.process import generator
from fuzz.runner import Result, run
from fuzz.surfaces import SURFACES, load_surface

SECONDS = 60.0  # for all surfaces, two at a time
SEED = 19
PROCESSES = 2


@pytest.mark.ros
@pytest.mark.slow
def test_fuzzed_input_is_rejected_in_one_line_or_handled_right(tmp_path: Path) -> None:
    seconds = SECONDS * PROCESSES / len(SURFACES)
    results = run(list(SURFACES), SEED, seconds, tmp_path, PROCESSES)
    findings = [
        f"{result.surface} --seed {SEED} --index {finding.index}: {finding.kind} {finding.message}"
        for result in results
        for finding in result.findings
    ]
    assert not findings, "\n".join(findings)
    for result in results:
        assert result.tried == result.accepted + result.rejected
        assert result.tried >= 20, f"only {result.tried} inputs for {result.surface}"
    # A surface that rejects or accepts everything tests nothing. Any answer of a model is parsed.
    assert all(result.accepted for result in results)
    assert all(result.rejected for result in results if result.surface != "answers")


@pytest.mark.parametrize(
    ("surface", "kind"), [("crashing", "crash"), ("hanging", "hang"), ("wrong", "WrongAcceptance")]
)
def test_runner_finds_a_crash_a_hang_and_a_wrong_acceptance(
    surface: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUZZ_CASE_SECONDS", "1")
    (result,) = run([f"selftest.{surface}"], 0, 3.0, tmp_path)
    assert result.failed >= 1 and result.tried > result.failed
    assert any(kind in finding.kind for finding in result.findings)


# What longer runs found: (surface, seed, index).
FOUND = (
    ("configs", 2026, 230),  # one of four layers of the vision tower
    ("videos", 5, 2301),  # an AVI that FFmpeg takes for raw MJPEG
    ("videos", 20261128, 541),  # an AVI with another start time, a frame is gone
    ("videos", 20261128, 2480),  # an AVI whose first frame is gone
)


@pytest.mark.parametrize(("surface", "seed", "index"), FOUND)
def test_inputs_that_were_found_are_handled_right(
    surface: str, seed: int, index: int, tmp_path: Path
) -> None:
    tested = load_surface(surface, tmp_path)
    tested.accepts(tested.make(generator(surface, seed, index)))


def test_an_input_depends_on_seed_and_index_only() -> None:
    first = [mutate_bytes(generator("bags", 1, i), bytes(500)) for i in range(20)]
    again = [mutate_bytes(generator("bags", 1, i), bytes(500)) for i in range(20)]
    other = [mutate_bytes(generator("bags", 2, i), bytes(500)) for i in range(20)]
    assert first == again and first != other


def test_a_mutated_value_leaves_the_original_unchanged() -> None:
    value = {"a": [1, {"b": 2.0}], "c": "text"}
    changed = [mutate_json(generator("configs", 0, i), value)[0] for i in range(200)]
    assert value == {"a": [1, {"b": 2.0}], "c": "text"}
    assert sum(new != value for new in changed) > 190


def test_counts_of_a_continued_run_add_up() -> None:
    total = Result("bags", 3, 1, 1, [], 1)
    total.add(Result("bags", 4, 4))
    assert (total.tried, total.accepted, total.rejected, total.failed) == (7, 5, 1, 1)
