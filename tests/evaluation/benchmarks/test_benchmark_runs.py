"""``eval benchmark`` from files to figures: answers are given, the figures are worked out by hand.

The model's window has 20 frames. Frames 10 to 29 of the 40 are the crop of ST-Align and VidSTG, so
that token k is frame 10 + k; the truth is frames 14 to 20. Every answered box is the complete image
and every true one a tenth of it, so that each IoU is 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llava_st_ros.cli.__main__ import main
from llava_st_ros.cli.eval_benchmark import BENCHMARK_NAMES
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.benchmarks import run as benchmark_run
from llava_st_ros.evaluation.benchmarks.catalogue import BENCHMARKS
from llava_st_ros.evaluation.benchmarks.evaluator import SampleEvaluator, SampleOutcome
from llava_st_ros.evaluation.benchmarks.samples import BenchmarkQuery
from llava_st_ros.evaluation.captions import PLAIN_WORDS
from llava_st_ros.evaluation.results import RunResults, read_results
from llava_st_ros.records import Answer, Box, Task
from llava_st_ros.training.st_align.writing import write_image, write_video
from support.benchmark_files import (
    CHARADES_LINES,
    CHARADES_RECORD,
    FRAMES,
    HEIGHT,
    WIDTH,
    hc_stvg_record,
    refcoco_file,
    st_align_record,
    vidor_video,
    vidstg_record,
    write_json,
)
from support.scripted_backend import ScriptedBackend, numbered_frames, scripted_tokenizer

FULL = Box(0.0, 0.0, 1.0, 1.0)
Run = Callable[..., RunResults]


def tube(first: int, last: int) -> tuple[tuple[int, Box], ...]:
    return tuple((token, FULL) for token in range(first, last + 1))


STVG = Answer(Task.STVG, span=(6, 12), boxes=tube(6, 12))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name in ("vidor/box.mp4", "1002/101.mp4", "part/a.mp4", "BOX01.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, numbered_frames(FRAMES, WIDTH, HEIGHT), 10.0)
    write_image(folder / "COCO_train2014_000000000072.jpg", numbered_frames(4, WIDTH, HEIGHT)[3])
    return folder


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ScriptedBackend:
    tokenizer = scripted_tokenizer()
    scripted = ScriptedBackend(tokenizer, {})
    monkeypatch.setattr(benchmark_run, "load_backend", lambda *_, **__: (scripted, tokenizer))
    return scripted


@pytest.fixture
def evaluate(backend: ScriptedBackend, media: Path, random_checkpoint: Path, tmp_path: Path) -> Run:
    def evaluate(
        name: str,
        annotations: Path,
        answers: Mapping[str, Answer | BaseException],
        *options: str,
        folder: Path = media,
        code: int = 0,
    ) -> RunResults:
        backend.answers = answers
        arguments = ["--annotations", str(annotations), "--media", str(folder)]
        arguments += ["--model", str(random_checkpoint), "--out", str(tmp_path / "out")]
        assert main(["eval", "benchmark", name, *arguments, *options]) == code
        return read_results(tmp_path / "out")

    return evaluate


def figures(results: RunResults, task: str) -> dict[str, float]:
    return {row.metric: row.value for row in results.rows if row.task == task}


def test_st_align_stvg(evaluate: Run, backend: ScriptedBackend, tmp_path: Path) -> None:
    path = write_json(tmp_path / "stvg.json", [st_align_record("stvg")])
    results = evaluate("st-align", path, {"can we see a box moves occurring": STVG})
    # Answered: frames 16 to 22. 5 frames are common with 14 to 20, 9 are in either.
    found = figures(results, "STVG")
    assert found["m_tIoU"] == pytest.approx(5 / 9)
    assert found["m_vIoU"] == pytest.approx(5 * 0.1 / 9)
    assert found["m_sIoU"] == pytest.approx(0.1)
    assert (found["answered"], found["parsed"]) == (1.0, 1.0)
    assert backend.windows == [tuple(range(10, 30))]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "report.html",
        "metrics.csv",
        "cases.csv",
    }
    (case,) = results.cases
    assert case.source.endswith("vidor/box.mp4")
    # At 10 frames per second.
    assert case.expected is not None and case.expected.spans == ((1_400_000_000, 2_000_000_000),)
    assert case.predicted is not None and case.predicted.spans == ((1_600_000_000, 2_200_000_000),)
    assert list(case.predicted.boxes) == [f * 100_000_000 for f in range(16, 23)]


def by_convention(results: RunResults, metric: str) -> dict[str, float]:
    return {row.convention: row.value for row in results.rows if row.metric == metric}


def test_conventions_are_scored_side_by_side(
    evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_json(tmp_path / "stvg.json", [st_align_record("stvg")])
    results = evaluate("st-align", path, {"box moves": STVG}, "--convention", "all")
    # Truth: frames 14 to 20. Answer: 16 to 22. TubeDETR samples the even frames, of which 3 of 5
    # are common. LLaVA-ST: fractions of frames 10 to 29, the truth's rounded to 0.211 and 0.526.
    assert by_convention(results, "m_vIoU") == {
        "llava_st_ros": pytest.approx(5 * 0.1 / 9),
        "HC-STVG": pytest.approx(5 * 0.1 / 9),
        "TubeDETR": pytest.approx(3 * 0.1 / 5),
        "64-frame": pytest.approx(5 * 0.1 / 9),
        "LLaVA-ST": pytest.approx(5 * 0.1 / 9),
    }
    tiou = by_convention(results, "m_tIoU")
    assert tiou["LLaVA-ST"] == pytest.approx((0.526 - 6 / 19) / (12 / 19 - 0.211), abs=1e-5)
    for name in ("HC-STVG", "TubeDETR", "llava_st_ros"):
        assert tiou[name] == pytest.approx(5 / 9)
    printed = capsys.readouterr().out
    for name in ("HC-STVG", "TubeDETR", "64-frame", "LLaVA-ST"):
        assert f"{name} " in printed.split("what differs")[1]


def test_hc_stvg_as_tubedetr_scores_it(evaluate: Run, tmp_path: Path) -> None:
    path = write_json(tmp_path / "test.json", {"a.mp4": hc_stvg_record(1)})
    results = evaluate("hc-stvg-v1", path, {"box moves": STVG}, "--convention", "TubeDETR")
    # There the truth is 15 to 21; the answer is 12 to 25. All frames are used at 2 per second.
    assert {row.convention for row in results.rows} == {"TubeDETR"}
    assert by_convention(results, "m_tIoU") == {"TubeDETR": pytest.approx(7 / 14)}
    assert by_convention(results, "m_vIoU") == {"TubeDETR": pytest.approx(7 * 0.1 / 14)}


def test_st_align_svg(evaluate: Run, tmp_path: Path) -> None:
    path = write_json(tmp_path / "svg.json", [st_align_record("svg")])
    left = Box(0.0, 0.0, 49 / 99, 1.0)
    answer = Answer(Task.SVG, boxes=(*((t, left) for t in range(4, 7)), *tube(7, 10)))
    results = evaluate("st-align", path, {"a box moves": answer})
    # Frames 14 to 16, where the truth is in the left part, and 17 to 20.
    assert figures(results, "SVG")["m_sIoU"] == pytest.approx((3 * 0.1 * 99 / 49 + 4 * 0.1) / 7)


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METEOR needs 10 seconds to start; ``test_captions`` has it."""
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap scores captions")
    monkeypatch.setenv("PATH", str(tmp_path))


def test_st_align_elc(
    evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_java: None
) -> None:
    path = write_json(tmp_path / "elc.json", [st_align_record("elc")])
    answer = Answer(Task.ELC, span=(4, 12), boxes=tube(4, 12), caption="the red box moves right")
    results = evaluate("st-align", path, {"what happened": answer}, "--convention", "all")
    ours = {row.metric: row.value for row in results.rows if row.convention == "llava_st_ros"}
    assert ours["m_tIoU"] == pytest.approx(7 / 9)
    assert ours["m_vIoU"] == pytest.approx(7 * 0.1 / 9)
    # Expected is "a box moves right.": 3 of 5 and 3 of 4 words. CIDEr of a single sample is 0.
    rouge = 2.44 * 0.6 * 0.75 / (0.75 + 1.44 * 0.6)
    assert by_convention(results, "ROUGE-L") == {PLAIN_WORDS: pytest.approx(rouge)}
    assert by_convention(results, "CIDEr") == {PLAIN_WORDS: 0.0}
    assert "METEOR is left out" in results.dropped[-1]
    output = capsys.readouterr()
    assert "ROUGE-L" in output.out and "words split by a" in output.out
    assert "install Java" in output.err


def test_vidstg_scores_its_kinds_of_sentences_apart(
    evaluate: Run, backend: ScriptedBackend, tmp_path: Path
) -> None:
    write_json(tmp_path / "vidor/validation/1002/101.json", vidor_video())
    path = write_json(tmp_path / "test_annotations.json", [vidstg_record()])
    right = Answer(Task.STVG, span=(4, 10), boxes=tube(4, 10))
    answers = {"the box moves occurring": STVG, "what moves": right}
    results = evaluate("vidstg", path, answers, "--vidor", str(tmp_path / "vidor"))
    assert figures(results, "STVG declarative")["m_tIoU"] == pytest.approx(5 / 9)
    assert figures(results, "STVG interrogative")["m_tIoU"] == 1.0
    assert figures(results, "STVG interrogative")["m_vIoU"] == pytest.approx(0.1)
    # The segment is frames 10 to 29, read and encoded once for both sentences.
    assert set(backend.windows) == {tuple(range(10, 30))} and backend.encoded == 20


@pytest.mark.parametrize("version", [1, 2])
def test_hc_stvg(evaluate: Run, backend: ScriptedBackend, tmp_path: Path, version: int) -> None:
    path = write_json(tmp_path / "test.json", {"a.mp4": hc_stvg_record(version)})
    results = evaluate(f"hc-stvg-v{version}", path, {"box moves": STVG})
    # 20 of frames 0 to 39: tokens 6 and 12 are frames 12 and 25. Common with 14 to 20: all 7.
    found = figures(results, "STVG")
    assert found["m_tIoU"] == pytest.approx(7 / 14)
    assert found["m_vIoU"] == pytest.approx(7 * 0.1 / 14)
    assert backend.windows == [tuple(round(k / 19 * 39) for k in range(20))]
    assert results.cases[0].source.endswith("part/a.mp4")  # found by its name


@pytest.mark.parametrize("form", ["text", "json"])
def test_charades_sta(evaluate: Run, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"test.{form}"
    if form == "text":
        path.write_text(CHARADES_LINES)
    else:
        write_json(path, [CHARADES_RECORD])
    results = evaluate("charades-sta", path, {"box moves": Answer(Task.TVG, span=(6, 9))})
    # Of 4 s, 1.4 to 2.0 s are 0.35 to 0.5; tokens 6 and 9 are 6/19 and 9/19.
    expected = (9 / 19 - 0.35) / (0.5 - 6 / 19)
    assert figures(results, "TVG")["mIoU"] == pytest.approx(expected)
    assert figures(results, "TVG")["R1@0.3"] == 1.0


def test_charades_sta_of_other_videos_and_of_folders_of_images(
    evaluate: Run, tmp_path: Path
) -> None:
    folder, frames = tmp_path / "charades", numbered_frames(FRAMES, WIDTH, HEIGHT)
    (folder / "BOX02").mkdir(parents=True)
    write_video(folder / "BOX01.avi", frames, 10.0)
    for number, frame in enumerate(frames, 1):
        write_image(folder / "BOX02" / f"BOX02-{number:06d}.png", frame)
    (folder / "BOX02" / "BOX02-000005.png").write_bytes(b"no image")
    path = tmp_path / "test.txt"
    path.write_text("BOX01 1.4 4.3##a box moves.\nBOX02 0.5 1.0##a box moves.\n")
    results = evaluate(
        "charades-sta", path, {"box moves": Answer(Task.TVG, span=(6, 9))}, folder=folder
    )
    assert not results.dropped
    video, images = results.cases
    assert (Path(video.source), Path(images.source)) == (folder / "BOX01.avi", folder / "BOX02")
    assert images.expected is not None and images.expected.spans == ((500_000_000, 1_000_000_000),)
    late, damaged = results.about["notes"]
    assert late.startswith("test.txt: line 1: the span ends at 4.3 s, after ")
    assert "frames that cannot be decoded, after which frames are numbered too low: 1 (" in damaged


@pytest.mark.parametrize("form", ["llava_st", "coco"])
def test_refcoco(evaluate: Run, backend: ScriptedBackend, tmp_path: Path, form: str) -> None:
    path = write_json(tmp_path / "refcoco_val.json", refcoco_file(form))
    exact = Answer(Task.REC, boxes=((None, Box(10 / 99, 25 / 99, 30 / 99, 74 / 99)),))
    answers = {"the red box": exact, "box on the left": Answer(Task.REC, boxes=((None, FULL),))}
    results = evaluate("refcoco", path, answers)
    # The truth is (0.1, 0.25, 0.3, 0.75); of the other one a tenth of the image.
    width, height = 0.3 - 10 / 99, 74 / 99 - 25 / 99
    expected = width * height / (0.1 + (30 - 10) / 99 * height - width * height)
    found = figures(results, "REC")
    assert found["Acc@0.5"] == 0.5
    assert found["mIoU"] == pytest.approx((expected + 0.1) / 2)
    assert set(backend.windows) == {(3,)}


def test_what_cannot_be_evaluated_is_counted_and_named(
    evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records: list[Any] = [st_align_record("stvg") for _ in range(5)]
    records[1]["video_path"] = "vidor/none.mp4"
    records[2]["meta"]["split"] = [14, 45]
    records[3]["conversations"][0]["value"] = "<video>\nwhat fails?"
    del records[4]["meta"]
    path = write_json(tmp_path / "stvg.json", records)
    answers = {"what fails": ValueError("no"), "box moves": STVG}
    results = evaluate("st-align", path, answers)
    assert [row.cases for row in results.rows if row.metric == "m_tIoU"] == [4]
    assert figures(results, "STVG")["m_tIoU"] == pytest.approx(5 / 9 / 4)
    folder = Path(results.cases[0].source).parents[1]
    expected = [
        "1 of 5 records cannot be used (20.0%)",
        "3 of 4 samples have no answer and count as 0 (75.0%): their media are missing or "
        "unreadable, or the evaluation failed",
        "stvg.json: record 4: the record has no meta",
        f"1-none: no vidor/none.mp4 below {folder}",
        f"2-box: {folder}/vidor/box.mp4 has 40 frames, but the sample needs frame 45; is it the "
        "original video, at its frame rate?",
        "3-box: the evaluation failed: ValueError: no",
    ]
    assert list(results.dropped) == expected
    assert capsys.readouterr().err.splitlines()[-6:] == [f"not evaluated: {e}" for e in expected]


def failing(*ids: str) -> Callable[..., SampleOutcome]:
    """``SampleEvaluator.evaluate`` with a fault at some samples."""
    evaluate = SampleEvaluator.evaluate

    def fail(evaluator: SampleEvaluator, query: BenchmarkQuery) -> SampleOutcome:
        if query.id in ids:
            raise ZeroDivisionError("a fault")
        return evaluate(evaluator, query)

    return fail


def test_a_job_that_fails_costs_only_its_own_samples(
    evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SampleEvaluator, "evaluate", failing("0-box"))
    path = write_json(tmp_path / "stvg.json", [st_align_record("stvg") for _ in range(2)])
    results = evaluate("st-align", path, {"box moves": STVG})
    assert [case.id for case in results.cases] == ["0-box", "1-box"]
    assert figures(results, "STVG")["m_tIoU"] == pytest.approx(5 / 9 / 2)
    assert results.dropped[-1] == "0-box: ZeroDivisionError: a fault (2 attempts)"


def test_jobs_that_all_fail_end_the_run(
    evaluate: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(SampleEvaluator, "evaluate", failing(*(f"{n}-box" for n in range(9))))
    path = write_json(tmp_path / "stvg.json", [st_align_record("stvg") for _ in range(9)])
    with pytest.raises(DataError, match=r"results\.json: No such file"):
        evaluate("st-align", path, {}, code=2)
    assert "ZeroDivisionError: a fault (2 attempts)" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_is_done(
    evaluate: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [st_align_record("stvg") for _ in range(4)]
    records[1]["conversations"][0]["value"] = "<video>\nwhat takes too long?"
    path = write_json(tmp_path / "stvg.json", records)
    answers = {"takes too long": KeyboardInterrupt(), "box moves": STVG}
    results = evaluate("st-align", path, answers, "--n", "3", code=130)
    assert [case.id for case in results.cases] == ["0-box"]
    assert results.dropped == ("interrupted: 1 of 3 samples are evaluated",)
    assert "interrupted: 1 of 3 samples are evaluated" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_cases_of_one(
    media: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    records = {f"{name}.mp4": hc_stvg_record(1) for name in ("a", "101", "box")}
    path = write_json(tmp_path / "test.json", records)
    arguments = ["--annotations", str(path), "--media", str(media)]
    arguments += ["--model", str(random_checkpoint), "--device", "cpu"]
    for workers in ("1", "2"):
        out = ["--out", str(tmp_path / workers), "--workers", workers]
        assert main(["eval", "benchmark", "hc-stvg-v1", *arguments, *out]) == 0
    one, two = read_results(tmp_path / "1"), read_results(tmp_path / "2")
    assert [case.id for case in two.cases] == ["a.mp4", "101.mp4", "box.mp4"]
    assert one.cases == two.cases and one.rows == two.rows


@pytest.mark.slow
def test_a_model_that_no_process_can_load_is_one_error(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = {f"{name}.mp4": hc_stvg_record(1) for name in ("a", "101", "box", "BOX01")}
    path = write_json(tmp_path / "test.json", records)
    arguments = ["--annotations", str(path), "--media", str(media), "--workers", "2"]
    arguments += ["--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert main(["eval", "benchmark", "hc-stvg-v1", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no folder {tmp_path}/none" in line
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_few_missing_frames_are_noted(evaluate: Run, tmp_path: Path) -> None:
    record = st_align_record("stvg")
    record["meta"]["split"] = [10, 41]  # two frames more than the video has
    path = write_json(tmp_path / "stvg.json", [record])
    results = evaluate("st-align", path, {"box moves": STVG})
    assert results.about["notes"][0].endswith("box.mp4 lacks the last 2 frames of the sample")
    assert not results.dropped


def test_an_answer_of_no_match_counts_as_zero(evaluate: Run, tmp_path: Path) -> None:
    path = write_json(tmp_path / "stvg.json", [st_align_record("stvg")])
    results = evaluate("st-align", path, {"box moves": Answer(Task.STVG, no_match=True)})
    found = figures(results, "STVG")
    assert (found["m_tIoU"], found["answered"]) == (0.0, 0.0)
    assert results.cases[0].problems == ('answered "no match"',)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--media", "none"], "no folder at none"),
        (["--media", "."], ". has the media of none of the 1 samples; the first would be vidor/"),
        (["--split", "tvg"], "ST-Align has no split 'tvg'; expected one of stvg, svg, elc"),
        (["--vidor", "."], "ST-Align does not use VidOR's annotations (--vidor)"),
        (["--annotations", "none.json"], "cannot read none.json: No such file or directory"),
        (["--n", "0"], "--n is 0; expected at least 1"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    tmp_path: Path,
    media: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "stvg.json", [st_align_record("stvg")])
    arguments = ["--annotations", "stvg.json", "--media", str(media), *options]
    if "none.json" in arguments:
        arguments += ["--split", "stvg"]
    assert main(["eval", "benchmark", "st-align", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_command_offers_every_benchmark() -> None:
    assert tuple(BENCHMARKS) == BENCHMARK_NAMES


def test_vidstg_needs_the_boxes_of_vidor(
    tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_json(tmp_path / "a.json", [vidstg_record()])
    arguments = ["--annotations", str(path), "--media", str(media)]
    assert main(["eval", "benchmark", "vidstg", *arguments]) == 2
    assert "name their folder with --vidor" in capsys.readouterr().err


def test_a_file_without_usable_records_is_an_error(
    tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_json(tmp_path / "test.json", {"a.mp4": hc_stvg_record(1)})
    arguments = ["--annotations", str(path), "--media", str(media)]
    assert main(["eval", "benchmark", "hc-stvg-v2", *arguments]) == 2
    assert (
        f"none of the 1 records of {path} can be used; the first: test.json: record 0, 'a.mp4': "
        "the record has no English"
    ) in capsys.readouterr().err


def test_rotated_videos_and_names_that_several_files_have_are_noted(
    evaluate: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "rotated"
    for part in ("a", "b"):
        (folder / part).mkdir(parents=True)
        write_video(folder / part / "box.mp4", numbered_frames(FRAMES, HEIGHT, WIDTH), 10.0)
    path = write_json(tmp_path / "stvg.json", [st_align_record("stvg")])
    results = evaluate("st-align", path, {"box moves": STVG}, folder=folder)
    assert results.about["notes"] == [
        f"several files below {folder} have the name of {folder}/a/box.mp4",
        f"{folder}/a/box.mp4 has frames of 200x400, but its boxes are annotated on 400x200",
    ]
