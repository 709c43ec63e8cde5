"""Run the export commands on the published 7B's layout with few layers and random weights.

scripts/with_ros python -m benchmarks.export_7b_layout
    [--layers 2] [--frames 5] [--precisions float32 float16] [--scratch DIR]
    [--out benchmarks/results/export_7b_layout.json]

Widths are the published ones; only the numbers of layers and frames are smaller. Each command runs
in its own process, whose memory is sampled ten times a second: its own (anonymous), and including
mapped files (resident).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2

from benchmarks.published_layout import published_geometry, write_published_layout
from llava_st_ros.atomic_files import write_text
from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import DataError
from llava_st_ros.export.validate.reference_inputs import reference_frames
from llava_st_ros.files.json_files import parse_json

TARGETS = {"float32": "cpu", "float16": "desktop"}  # export target by precision
QUESTION = ["--query", "the green ball rolls", "--task", "TVG", "--period", "1000", "--json"]
INTERVAL = 0.1  # s between two samples of a process's memory


@dataclass
class Memory:
    """The peak memory sampled so far, in bytes."""

    anonymous: int = 0
    resident: int = 0

    def sample(self, process_id: int) -> None:
        """Sample a process."""
        try:
            lines = Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
        except OSError:  # it has exited
            return
        fields = {key: value for key, _, value in (line.partition(":") for line in lines)}
        if "RssAnon" in fields:
            sizes = [1024 * int(fields[key].split()[0]) for key in ("RssAnon", "VmRSS")]
            self.anonymous = max(self.anonymous, sizes[0])
            self.resident = max(self.resident, sizes[1])


@dataclass
class Phase:
    """A part of a command."""

    name: str
    memory: Memory
    seconds: float = 0.0

    def line(self) -> str:
        """Return the phase as a line of the report."""
        sizes = (self.memory.anonymous / 1e9, self.memory.resident / 1e9)
        return f"{self.name:36} {self.seconds:8.1f} s   {sizes[0]:6.2f} GB   {sizes[1]:6.2f} GB"


def run(name: str, arguments: Sequence[str], phases: list[Phase]) -> Any:
    """Run a subcommand of llava-st; return its JSON output.

    The command's own progress lines each start a new phase.
    """
    command = [sys.executable, "-m", "llava_st_ros.cli", *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.NamedTemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        phases.append(Phase(name, Memory()))
        steps, start = 0, time.perf_counter()
        while True:
            exited = process.poll() is not None
            lines = Path(errors.name).read_text(encoding="utf-8").splitlines()
            new = [line for line in lines if line.startswith("[export] ")][steps:]
            phases[-1].seconds = time.perf_counter() - start
            for line in new:
                print(phases[-1].line(), flush=True)
                phases.append(Phase(f"{name}: {line.removeprefix('[export] ')}", Memory()))
                start = time.perf_counter()
            steps += len(new)
            phases[-1].memory.sample(process.pid)
            if exited:
                break
            time.sleep(INTERVAL)
        print(phases[-1].line(), flush=True)
        if process.returncode:
            raise SystemExit(
                f"{' '.join(arguments)}: exit {process.returncode}\n" + "\n".join(lines)
            )
        output.seek(0)
        report: dict[str, Any] = parse_json(output.read(), "the report", DataError, nan=True)
        return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2, help="layers of tower and decoder each")
    parser.add_argument("--frames", type=int, default=5, help="frames of a window")
    parser.add_argument("--precisions", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--scratch", type=Path, help="folder for about 15 GB (default: system's)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the report as JSON")
    options = parser.parse_args()

    published = published_geometry()
    config = replace(
        published,
        num_frames=options.frames,
        vision=replace(published.vision, num_layers=options.layers),
        language=replace(published.language, num_hidden_layers=options.layers),
    )
    phases: list[Phase] = []
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="export_7b_layout-") as scratch:
        folder = Path(scratch) / "checkpoint"
        start = time.perf_counter()
        write_published_layout(folder, config, shard_bytes=1 << 30)
        phases.append(Phase("write the checkpoint", Memory(), time.perf_counter() - start))
        report = {
            "layers": options.layers,
            "frames": options.frames,
            "checkpoint_bytes": _sizes(folder),
            "precisions": {
                precision: _export(Path(scratch), folder, config, precision, phases)
                for precision in options.precisions
            },
        }
        ground = ["ground", "--images", str(Path(scratch) / "frames"), *QUESTION]
        answer = _answer(run("torch: ground", [*ground, "--model", str(folder)], phases))
    for precision, result in report["precisions"].items():
        result["answers_like_torch"] = result["answer"] == answer
        _print_result(precision, result, answer)
    report["phases"] = [
        {"name": phase.name, "seconds": phase.seconds, **vars(phase.memory)} for phase in phases
    ]
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")


def _export(
    scratch: Path, folder: Path, config: ModelConfig, precision: str, phases: list[Phase]
) -> dict[str, Any]:
    """Export, verify, inspect, plan and run one precision."""
    engine, frames = scratch / precision, scratch / "frames"
    frames.mkdir(exist_ok=True)
    for number, image in enumerate(reference_frames(config)):
        cv2.imwrite(str(frames / f"{number:03d}.png"), image[..., ::-1])

    def llava_st(step: str, arguments: list[str]) -> Any:
        return run(f"{precision}: {step}", arguments, phases)

    export = ["export", "--checkpoint", str(folder), "--target", TARGETS[precision]]
    export += ["--precision", precision, "--device", "cpu", "--out", str(engine), "--json"]
    proof = llava_st("export", export)
    verify = ["export", "verify", str(engine), "--against", str(folder), "--device", "cpu"]
    verified = llava_st("verify", [*verify, "--json"])
    inspected = llava_st("inspect", ["export", "inspect", str(engine), "--json"])
    plan = ["export", "plan", "--model", str(folder), "--precision", precision, "--json"]
    planned = llava_st("plan", plan)
    ground = ["ground", "--images", str(frames), *QUESTION, "--model", str(engine)]
    answer = _answer(llava_st("ground", ground))
    sizes = _sizes(engine)
    for path in engine.iterdir():  # free the disk for the next precision
        path.unlink()
    return {
        "proof": proof,
        "verified_alike": verified == {"proof": proof, "problems": []},
        "engine_bytes": sizes,
        "weights": {
            name: {"file": inspected["graphs"][name]["weights"], "plan": round(size)}
            for name, size in planned["weights"].items()
        },
        "answer": answer,
    }


def _print_result(precision: str, result: dict[str, Any], torch_answer: dict[str, Any]) -> None:
    print(f"{precision}: answers {result['answer']!r}, torch {torch_answer!r}")
    for graph, sizes in result["weights"].items():
        print(f"  {graph}: {sizes['file']:,} bytes in the file, {sizes['plan']:,} in the plan")
    print(f"  proof {json.dumps(result['proof'])}")


def _answer(report: dict[str, Any]) -> dict[str, Any]:
    (answer,) = report["answers"]
    return {key: answer[key] for key in ("text", "span", "boxes", "no_match", "problems")}


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    main()
