"""``llava-st parity``: does this code compute what the published LLaVA-ST computes?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from llava_st_ros.backends import BACKENDS, run_engine
from llava_st_ros.evaluation.parity import (
    TOLERANCE,
    Case,
    Comparison,
    IdComparison,
    Unseen,
    compare,
)

if TYPE_CHECKING:
    from llava_st_ros.backends.base import Backend
    from llava_st_ros.backends.torch import TorchBackend

TARGETS = {"onnxruntime": "cpu", "tensorrt": "desktop_tensorrt"}  # by what is compared
HELP = "compare the model with a reference case of the published code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", metavar="CASE_DIR", type=Path, help="folder of the case")
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="what computes")
    parser.add_argument(
        "--device", default="", help="device (default: a GPU for TensorRT, else cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(args: argparse.Namespace) -> int:
    """0 where every array and all ids agree, 1 where one does not. Raises LlavaStError."""
    case = Case(args.case)
    results = []
    with ExitStack() as stack:
        if args.backend == "torch":
            backend = load_backend_of(case, device=args.device or "cpu")
        else:
            backend = stack.enter_context(_exported(case, args.backend, args.device))
        for result in compare(case, backend):
            results.append(result)
            if not args.json:
                print(_line(result), flush=True)
    passed = all(result.passed for result in results if not isinstance(result, Unseen))
    if args.json:
        report = {
            "case": str(args.case),
            "backend": args.backend,
            "tolerance": TOLERANCE,
            "passed": passed,
            "arrays": [asdict(r) for r in results if isinstance(r, Comparison)],
            "unseen": [r.name for r in results if isinstance(r, Unseen)],
            "ids": [asdict(r) for r in results if isinstance(r, IdComparison)],
        }
        print(json.dumps(report))
    else:
        print("agrees" if passed else f"DIFFERS by more than {TOLERANCE:g} of the std")
    return 0 if passed else 1


def load_backend_of(case: Case, *, device: str) -> TorchBackend:
    """The case's checkpoint in float32, with the sizes that case.json adds."""
    # Here, so that `llava-st --help` does not wait for torch.
    from llava_st_ros.backends.torch import TorchBackend, check_device
    from llava_st_ros.model.checkpoint import load_checkpoint

    check_device(device)
    return TorchBackend(load_checkpoint(case.folder, overrides=case.overrides()), device=device)


@contextmanager
def _exported(case: Case, backend: str, device: str) -> Iterator[Backend]:
    """The case's checkpoint, exported in float32 for a runtime."""
    from llava_st_ros.backends.engine_files import open_engine
    from llava_st_ros.export.engine_directory import export_checkpoint
    from llava_st_ros.export.target import read_target

    target = read_target(TARGETS[backend])
    with TemporaryDirectory(prefix="parity-") as folder:
        out = Path(folder) / "engine"
        export_checkpoint(case.folder, target, "float32", out, overrides=case.overrides())
        yield run_engine(open_engine(out, target.backend), device=device or target.device)


def _line(result: Comparison | IdComparison | Unseen) -> str:
    if isinstance(result, Unseen):
        return f"{result.name:<26} stays inside this backend"
    verdict = "ok" if result.passed else "DIFFERS"
    if isinstance(result, IdComparison):
        where = "equal" if result.passed else f"differ from place {result.first_difference} on"
        return f"{result.name:<26} {result.length} ids {where}  {verdict}"
    shape = "x".join(map(str, result.shape))
    return (
        f"{result.name:<26} {shape:<14} largest difference {result.difference:.3e}  "
        f"std {result.std:.3e}  {verdict}"
    )
