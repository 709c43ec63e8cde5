"""One surface in one process: python -m fuzz.process SURFACE SEED FIRST SECONDS FOLDER."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import sys
import time
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np

from fuzz.runner import MEMORY, Finding, Result
from fuzz.surface import Case, Surface
from fuzz.surfaces import load_surface

# Seconds after which an input counts as a hang; shared machines are slow.
CASE_SECONDS = float(os.environ.get("FUZZ_CASE_SECONDS", "20"))


def generator(surface: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of one input."""
    return np.random.default_rng([seed, zlib.crc32(surface.encode()), index])


def place_of(error: BaseException) -> str:
    """File and line of the innermost frame of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "?"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"


class Run:
    """Tries inputs one after another and keeps the counts on disk, for the case of a crash."""

    def __init__(self, name: str, surface: Surface, seed: int, folder: Path) -> None:
        self.result = Result(name)
        self._surface, self._seed, self._folder = surface, seed, folder
        self._seen: set[str] = set()

    def try_index(self, index: int) -> None:
        case = self._surface.make(generator(self.result.surface, self._seed, index))
        self._write_progress(index, case)
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
        try:
            accepted = self._surface.accepts(case)
        except Exception as error:
            self._add_finding(index, case, error)
        else:
            self.result.accepted += accepted
            self.result.rejected += not accepted
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.result.tried += 1

    def _add_finding(self, index: int, case: Case, error: Exception) -> None:
        self.result.failed += 1
        kind, place = type(error).__name__, place_of(error)
        # Faults of one cause differ in numbers.
        if (key := f"{kind} {place} {re.sub('[^a-z ]', '', str(error))[:30]}") in self._seen:
            return
        self._seen.add(key)
        message = f"{place}: {error}"[:600]
        self.result.findings.append(Finding(index, kind, message, case.description[:300]))

    def _write_progress(self, index: int, case: Case) -> None:
        values = {**self.result.as_dict(), "index": index, "description": case.description[:300]}
        path = self._folder / "progress"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(values))
        os.replace(temporary, path)


def main(name: str, seed: str, first: str, seconds: str, folder: str) -> None:
    """Fuzz for a time, or try a single input if ``seconds`` is 0; print the result as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    scratch = Path(folder) / "files"
    scratch.mkdir(exist_ok=True)
    run = Run(name, load_surface(name, scratch), int(seed), Path(folder))
    end, index = time.monotonic() + float(seconds), int(first)
    while True:
        run.try_index(index)
        index += 1
        if time.monotonic() >= end:
            break
    print(json.dumps(run.result.as_dict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
