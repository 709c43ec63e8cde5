"""Scores of captions, with the real programs; METEOR's own values are stored."""

from __future__ import annotations

import doctest
import math
import os
import re
import stat
import sys
from pathlib import Path

import pytest

pytest.importorskip("pycocoevalcap", reason="pycocoevalcap scores captions: extra 'evaluation'")

from llava_st_ros.evaluation import captions
from llava_st_ros.evaluation.captions import PLAIN_WORDS, PTB_WORDS, score_captions
from llava_st_ros.evaluation.results import Case, rows_of

CAPTIONS = [
    "a man walks into the room.",
    "the red box moves left",
    "",
    "Größe café — “dog’s”",
    "isn't it; (yes)",
]
REFERENCES = [
    ["a person enters the room"],
    ["a red box is moving to the left", "box"],
    ["nothing"],
    ["café dog's Größe"],
    ["it isn't, yes"],
]


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def program(folder: Path, source: str) -> None:
    """Put a program in place of java."""
    path = folder / "java"
    path.write_text(f"#!{sys.executable}\n{source}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def lcs(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + lcs(a[1:], b[1:])
    return max(lcs(a[1:], b), lcs(a, b[1:]))


def rouge_l(caption: str, references: list[str]) -> float:
    words = caption.split()
    found = [(lcs(words, r.split()), len(r.split())) for r in references]
    precision = max(n / len(words) for n, _ in found)
    recall = max(n / length for n, length in found)
    beta = 1.2 * 1.2
    return (1 + beta) * precision * recall / (recall + beta * precision) if precision else 0.0


def cider_d(caption: str, reference: str, corpus: list[str]) -> float:
    """CIDEr-D with one reference for each sample (arXiv 1411.5726, with clipping and penalty)."""

    def grams(text: str, n: int) -> dict[str, int]:
        words = text.split()
        found: dict[str, int] = {}
        for i in range(len(words) - n + 1):
            gram = " ".join(words[i : i + n])
            found[gram] = found.get(gram, 0) + 1
        return found

    total = 0.0
    for n in (1, 2, 3, 4):
        texts = [grams(text, n) for text in corpus]

        def weight(gram: str, texts: list[dict[str, int]] = texts) -> float:
            return math.log(len(texts) / max(1, sum(gram in text for text in texts)))

        a = {gram: count * weight(gram) for gram, count in grams(caption, n).items()}
        b = {gram: count * weight(gram) for gram, count in grams(reference, n).items()}
        norm = math.hypot(*a.values()) * math.hypot(*b.values())
        if norm:
            total += sum(min(a[g], b.get(g, 0.0)) * b.get(g, 0.0) for g in a) / norm
    # The original compares the numbers of bigrams in place of lengths.
    gap = abs(max(0, len(caption.split()) - 1) - max(0, len(reference.split()) - 1))
    return 10 * total / 4 * math.exp(-(gap**2) / 72)


def column(scores: captions.CaptionScores, convention: str, name: str) -> list[float]:
    return [values[f"{convention} {name}"] for values in scores.values]


def test_cider_and_rouge_agree_with_a_second_implementation(no_java: None) -> None:
    said = ["the red box moves left", "a cup", "a cup falls", "nothing of it"]
    truth = ["a red box moves to the left", "a cup falls down", "a cup falls", "the gripper opens"]
    scores = score_captions(said, [[text] for text in truth])
    assert column(scores, PLAIN_WORDS, "CIDEr") == pytest.approx(
        [cider_d(a, b, truth) for a, b in zip(said, truth)], abs=1e-9
    )
    assert column(scores, PLAIN_WORDS, "ROUGE-L") == pytest.approx(
        [rouge_l(a, [b]) for a, b in zip(said, truth)], abs=1e-9
    )
    assert len({round(v, 3) for v in column(scores, PLAIN_WORDS, "CIDEr")}) == 4


def test_cider_is_a_measure_of_a_set(no_java: None) -> None:
    alone = score_captions(["the red box moves left"], [["the red box moves left"]])
    assert column(alone, PLAIN_WORDS, "CIDEr") == [0.0]
    assert column(alone, PLAIN_WORDS, "ROUGE-L") == [1.0]
    words = score_captions(["cat", "dog"], [["cat"], ["dog"]])
    assert column(words, PLAIN_WORDS, "CIDEr") == pytest.approx([2.5, 2.5])
    sentences = ["the red box moves left", "a cup falls down now"]
    longer = score_captions(sentences, [[text] for text in sentences])
    assert column(longer, PLAIN_WORDS, "CIDEr") == pytest.approx([10.0, 10.0])


def test_without_java_the_other_figures_have_another_name_and_one_line_says_what_to_do(
    no_java: None,
) -> None:
    scores = score_captions(CAPTIONS, REFERENCES)
    assert [(m.name, m.convention) for m in scores.metrics] == [
        ("CIDEr", "plain words"),
        ("ROUGE-L", "plain words"),
    ]
    (problem,) = scores.problems
    assert "\n" not in problem
    assert re.search(r"METEOR is left out, .*there is no java.*install Java 8", problem)
    assert set(scores.values[2].values()) == {0.0}


def test_a_tokenizer_that_fails_or_loses_lines_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for source, message in (
        ("import sys; sys.exit(3)", "the tokenizer has failed: .*exit status 3"),
        ("print('one')", "the tokenizer returned 1 lines for 2 captions"),
    ):
        program(tmp_path, source)
        scores = score_captions(["a"], [["a"]])
        assert re.search(message, scores.problems[0])
        assert column(scores, PLAIN_WORDS, "ROUGE-L") == [1.0]


@pytest.mark.parametrize("source", ["", "print('0,5', flush=True)", "print('1 2\\n0,5\\n0,5')"])
def test_a_meteor_program_that_ends_or_answers_no_number_costs_its_own_figure(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    echo = "import sys\nif 'edu' in ' '.join(sys.argv): sys.exit(print(sys.stdin.read(), end=''))"
    program(tmp_path, f"{echo}\n{source}")
    scores = score_captions(["a b", "c"], [["a b"], ["d"]])
    (problem,) = scores.problems
    assert "METEOR is left out: the METEOR program has failed" in problem
    assert [metric.name for metric in scores.metrics] == ["CIDEr", "ROUGE-L"]
    assert column(scores, PTB_WORDS, "ROUGE-L") == [1.0, 0.0]


def test_hostile_captions_are_one_line_each(no_java: None) -> None:
    said = ["a\ncat\r\nsits", "a ||| b", "\0\ud800x", "   ", "|||"]
    scores = score_captions(said, [["a cat sits"], ["a b"], ["x"], ["y"], ["z"]])
    assert column(scores, PLAIN_WORDS, "ROUGE-L")[:2] == [1.0, 1.0]
    assert column(scores, PLAIN_WORDS, "ROUGE-L")[3:] == [0.0, 0.0]
    assert captions.one_line_of(said[0]) == "a cat sits"


def test_without_references_or_captions_there_are_no_figures(no_java: None) -> None:
    assert score_captions([], []).values == ()
    empty = score_captions(["a cat"], [["..."]])
    assert (empty.values, empty.metrics) == (({},), ())


def test_without_the_scorers_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    scores = score_captions(["a", "b"], [["a"], ["b"]])
    assert (scores.values, scores.metrics) == (({}, {}), ())
    (problem,) = scores.problems
    assert re.search(r"captions are not scored: .*: pip install '\.\[evaluation\]'", problem)


def test_doctests() -> None:
    assert doctest.testmod(captions).failed == 0


def test_figures_are_means_with_an_interval_and_a_range(no_java: None) -> None:
    scores = score_captions(["cat", "cow"], [["cat"], ["dog"]])
    cases = [Case(str(i), "v", "ELC", "q", values) for i, values in enumerate(scores.values)]
    rows = {row.metric: row for row in rows_of("ELC", scores.metrics, cases)}
    assert (rows["CIDEr"].value, rows["CIDEr"].unit, rows["CIDEr"].cases) == (1.25, "of 10", 2)
    assert rows["ROUGE-L"].value == 0.5


@pytest.mark.slow
def test_no_figure_depends_on_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR writes 0,29 in German; the values are those of pycocoevalcap in English."""
    if not any(os.access(Path(p) / "java", os.X_OK) for p in os.environ["PATH"].split(":")):
        pytest.skip("java is not installed")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    # Locales are often not installed; these are what Java derives from them.
    monkeypatch.setenv(
        "JAVA_TOOL_OPTIONS",
        "-Duser.language=de -Duser.country=DE -Dfile.encoding=ISO-8859-1",
    )
    scores = score_captions(CAPTIONS, REFERENCES)
    assert scores.problems == ()
    assert {metric.convention for metric in scores.metrics} == {PTB_WORDS}
    assert column(scores, PTB_WORDS, "METEOR 1.5 (jar)") == pytest.approx(
        [0.29131423334096984, 0.2788086773138642, 0.0, 0.5004680755588762, 0.4434887701272963],
        abs=1e-9,
    )
    assert column(scores, PTB_WORDS, "ROUGE-L") == pytest.approx(
        [
            rouge_l("a man walks into the room", ["a person enters the room"]),
            rouge_l("the red box moves left", ["a red box is moving to the left", "box"]),
            0.0,
            0.75,  # größe café dog 's against café dog 's größe: three of four words
            rouge_l("is n't it -lrb- yes -rrb-", ["it is n't yes"]),
        ],
        abs=1e-9,
    )
