"""Takes the published 7B's layout through the whole export, with few layers and random weights.

scripts/with_ros .venv/bin/python -m benchmarks.export_7b_layout
    [--layers 2] [--frames 5] [--precisions float32 float16] [--scratch DIR]
    [--out benchmarks/results/export_7b_layout.json]

Every width is the published one; only layers and frames are fewer. Each command runs in a process
of its own, whose memory is looked at ten times a second: what it holds itself (anonymous), and with
the files it has mapped (resident).
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
from llava_st_ros.export.validate.reference_inputs import reference_frames

TARGETS = {"float32": "cpu", "float16": "desktop"}
QUESTION = ("--query", "the green ball rolls", "--task", "TVG", "--period", "1000", "--json")
INTERVAL = 0.1  # s between two looks at a process


@dataclass
class Memory:
    """Bytes at the worst moment seen."""

    anonymous: int = 0
    resident: int = 0

    def look(self, process: int) -> None:
        try:
            lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
        except OSError:  # it is gone
            return
        found = {key: value for key, _, value in (line.partition(":") for line in lines)}
        if "RssAnon" in found:
            sizes = [1024 * int(found[key].split()[0]) for key in ("RssAnon", "VmRSS")]
            self.anonymous = max(self.anonymous, sizes[0])
            self.resident = max(self.resident, sizes[1])


@dataclass
class Phase:
    """A part of a command."""

    name: str
    memory: Memory
    seconds: float = 0.0

    def line(self) -> str:
        sizes = (self.memory.anonymous / 1e9, self.memory.resident / 1e9)
        return f"{self.name:36} {self.seconds:8.1f} s   {sizes[0]:6.2f} GB   {sizes[1]:6.2f} GB"


def run(name: str, arguments: Sequence[str], phases: list[Phase]) -> Any:
    """Run a subcommand of llava-st; its JSON. Each step that it tells of is a phase of its own."""
    command = [sys.executable, "-m", "llava_st_ros.cli", *arguments]
    with tempfile.TemporaryFile("w+") as said, tempfile.NamedTemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=said, stderr=told)
        phases.append(Phase(name, Memory()))
        steps, begun = 0, time.perf_counter()
        while True:
            ended = process.poll() is not None
            lines = Path(told.name).read_text(encoding="utf-8").splitlines()
            new = [line for line in lines if line.startswith("[export] ")][steps:]
            phases[-1].seconds = time.perf_counter() - begun
            for line in new:
                print(phases[-1].line(), flush=True)
                phases.append(Phase(f"{name}: {line.removeprefix('[export] ')}", Memory()))
                begun = time.perf_counter()
            steps += len(new)
            phases[-1].memory.look(process.pid)
            if ended:
                break
            time.sleep(INTERVAL)
        print(phases[-1].line(), flush=True)
        if process.returncode:
            raise SystemExit(
                f"{' '.join(arguments)}: exit {process.returncode}\n" + "\n".join(lines)
            )
        said.seek(0)
        return json.load(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2, help="of tower and decoder each")
    parser.add_argument("--frames", type=int, default=5, help="of a window")
    parser.add_argument("--precisions", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--scratch", type=Path, help="for some 15 GB (default: the system's)")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
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
        begun = time.perf_counter()
        write_published_layout(folder, config, shard_bytes=1 << 30)
        phases.append(Phase("write the checkpoint", Memory(), time.perf_counter() - begun))
        report = {
            "layers": options.layers,
            "frames": options.frames,
            "checkpoint_bytes": _sizes(folder),
            "precisions": {
                precision: _take_through(Path(scratch), folder, config, precision, phases)
                for precision in options.precisions
            },
        }
        asked = ("ground", "--images", str(Path(scratch) / "frames"), *QUESTION)
        answer = _answer(run("torch: ground", (*asked, "--model", str(folder)), phases))
    for precision, of in report["precisions"].items():
        of["answers_like_torch"] = of["answer"] == answer
        print(f"{precision}: answers {of['answer']!r}, torch {answer!r}")
        for graph, sizes in of["weights"].items():
            print(f"  {graph}: {sizes['file']:,} bytes in the file, {sizes['plan']:,} in the plan")
        print(f"  proof {json.dumps(of['proof'])}")
    report["phases"] = [
        {"name": phase.name, "seconds": phase.seconds, **vars(phase.memory)} for phase in phases
    ]
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")


def _take_through(
    scratch: Path, folder: Path, config: ModelConfig, precision: str, phases: list[Phase]
) -> dict[str, Any]:
    engine, frames = scratch / precision, scratch / "frames"
    frames.mkdir(exist_ok=True)
    for number, image in enumerate(reference_frames(config)):
        cv2.imwrite(str(frames / f"{number:03d}.png"), image[..., ::-1])
    export = ("export", "--checkpoint", str(folder), "--target", TARGETS[precision])
    on = ("--precision", precision, "--device", "cpu", "--out", str(engine), "--json")
    proof = run(f"{precision}: export", (*export, *on), phases)
    again = run(
        f"{precision}: verify",
        ("export", "verify", str(engine), "--against", str(folder), "--device", "cpu", "--json"),
        phases,
    )
    inspected = run(f"{precision}: inspect", ("export", "inspect", str(engine), "--json"), phases)
    plan = run(
        f"{precision}: plan",
        ("export", "plan", "--model", str(folder), "--precision", precision, "--json"),
        phases,
    )
    asked = ("ground", "--images", str(frames), *QUESTION, "--model", str(engine))
    answer = _answer(run(f"{precision}: ground", asked, phases))
    sizes = _sizes(engine)
    for path in engine.iterdir():  # room for the next
        path.unlink()
    return {
        "proof": proof,
        "verified_alike": again == {"proof": proof, "problems": []},
        "engine_bytes": sizes,
        "weights": {
            name: {"file": inspected["graphs"][name]["weights"], "plan": round(size)}
            for name, size in plan["weights"].items()
        },
        "answer": answer,
    }


def _answer(report: dict[str, Any]) -> dict[str, Any]:
    (answer,) = report["answers"]
    return {key: answer[key] for key in ("text", "span", "boxes", "no_match", "problems")}


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    main()
