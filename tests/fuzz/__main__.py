"""The command of ``make fuzz``: python -m fuzz [SURFACE ...] with --seconds, --seed, --index."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
from pathlib import Path

from fuzz.process import generator
from fuzz.runner import Result, run
from fuzz.surfaces import SURFACES, load_surface


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("surfaces", nargs="*", metavar="SURFACE", help=", ".join(SURFACES))
    parser.add_argument("--seconds", type=float, default=600.0, help="in total (600)")
    parser.add_argument("--seed", type=int, help="seed of the inputs; random if omitted")
    parser.add_argument("--index", type=int, help="only this input of one surface, with traceback")
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    options = parser.parse_args()
    names = options.surfaces or list(SURFACES)
    if unknown := sorted(set(names) - set(SURFACES)):
        parser.error(f"unknown surfaces {', '.join(unknown)}; expected {', '.join(SURFACES)}")
    seed = secrets.randbits(32) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        if options.index is not None:
            return _try_one(names[0], seed, options.index, Path(folder))
        processes = min(os.cpu_count() or 1, len(names))
        seconds = options.seconds * processes / len(names)
        print(f"[fuzz] seed {seed}, {seconds:.0f} s for each of {len(names)} surfaces", flush=True)
        results = run(names, seed, seconds, Path(folder), processes)
    for result in results:
        print(table_row(result))
        for finding in result.findings:
            again = f"{result.surface} --seed {seed} --index {finding.index}"
            print(f"  {finding.kind}: {finding.message}")
            print(f"    input: {finding.description}")
            print(f"    again: make fuzz FUZZ_ARGS='{again}'")
    if options.out is not None:
        values = {"seed": seed, "seconds": options.seconds, "results": counts(results)}
        options.out.write_text(json.dumps(values, indent=1) + "\n")
    return 1 if any(result.failed for result in results) else 0


def _try_one(name: str, seed: int, index: int, folder: Path) -> int:
    surface = load_surface(name, folder)
    case = surface.make(generator(name, seed, index))
    print(f"{name} {index}: {case.description}", flush=True)
    print("accepted" if surface.accepts(case) else "rejected")
    return 0


def table_row(result: Result) -> str:
    """A row of docs/reliability.md's table."""
    numbers = (result.tried, result.accepted, result.rejected, result.failed)
    return " | ".join(["| " + result.surface, *(f"{number:,}" for number in numbers)]) + " |"


def counts(results: list[Result]) -> list[dict[str, object]]:
    """The counts of each surface, without its findings."""
    return [
        {key: value for key, value in result.as_dict().items() if key != "findings"}
        for result in results
    ]


if __name__ == "__main__":
    sys.exit(main())
