"""``llava-st parity``: compare a backend with values computed by the published LLaVA-ST code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from llava_st_ros.backends import BACKENDS, create_engine_backend
from llava_st_ros.errors import DataError
from llava_st_ros.evaluation.parity import (
    TOLERANCE,
    ArrayComparison,
    IdComparison,
    NotExposed,
    ParityCase,
    PixelBackend,
    compare,
)

if TYPE_CHECKING:
    from llava_st_ros.backends.torch import TorchBackend

TARGETS = {"onnxruntime": "cpu", "tensorrt": "desktop_tensorrt"}  # export target by backend
HELP = "compare a backend with a reference case of the published code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", metavar="CASE_DIR", type=Path, help="folder of the parity case")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="torch", help="backend to compare (default torch)"
    )
    parser.add_argument(
        "--device", default="", help="device (default: cuda for TensorRT, otherwise cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Return 0 if every array and all ids agree, 1 if not."""
    from llava_st_ros.cli.extras import requires_extra

    if not args.case.is_dir():
        raise DataError(f"no folder {args.case}; expected a parity case")
    case = ParityCase(args.case)
    results = []
    extra = "torch" if args.backend == "torch" else "export"
    with requires_extra(extra), ExitStack() as stack:
        backend: PixelBackend
        if args.backend == "torch":
            backend = load_case_backend(case, device=args.device or "cpu")
        else:
            backend = stack.enter_context(_exported(case, args.backend, args.device))
        for result in compare(case, backend):
            results.append(result)
            if not args.json:
                print(_line(result), flush=True)
    passed = all(result.passed for result in results if not isinstance(result, NotExposed))
    if args.json:
        report = {
            "case": str(args.case),
            "backend": args.backend,
            "tolerance": TOLERANCE,
            "passed": passed,
            "arrays": [asdict(r) for r in results if isinstance(r, ArrayComparison)],
            "not_exposed": [r.name for r in results if isinstance(r, NotExposed)],
            "ids": [asdict(r) for r in results if isinstance(r, IdComparison)],
        }
        print(json.dumps(report))
    else:
        print("agrees" if passed else f"DIFFERS by more than {TOLERANCE:g} of the std")
    return 0 if passed else 1


def load_case_backend(case: ParityCase, *, device: str) -> TorchBackend:
    """Load the case's checkpoint in float32, with the sizes that case.json adds."""
    # Imported here to keep `llava-st --help` fast.
    from llava_st_ros.backends.torch import TorchBackend, resolve_device
    from llava_st_ros.model.checkpoint import load_checkpoint

    resolve_device(device)
    return TorchBackend(load_checkpoint(case.folder, overrides=case.overrides()), device=device)


@contextmanager
def _exported(case: ParityCase, backend: str, device: str) -> Iterator[PixelBackend]:
    """Export the case's checkpoint in float32 and run it in a runtime."""
    from llava_st_ros.backends.engine_files import open_engine
    from llava_st_ros.export.engine_directory import ExportRequest, export_checkpoint
    from llava_st_ros.export.target import read_target

    target = read_target(TARGETS[backend])
    with TemporaryDirectory(prefix="parity-") as folder:
        out = Path(folder) / "engine"
        export_checkpoint(ExportRequest(case.folder, target, "float32", out, case.overrides()))
        yield create_engine_backend(
            open_engine(out, target.backend), device=device or target.device
        )


def _line(result: ArrayComparison | IdComparison | NotExposed) -> str:
    if isinstance(result, NotExposed):
        return f"{result.name:<26} not exposed by this backend"
    verdict = "ok" if result.passed else "DIFFERS"
    if isinstance(result, IdComparison):
        where = "equal" if result.passed else f"differ from index {result.first_difference} on"
        return f"{result.name:<26} {result.length} ids {where}  {verdict}"
    shape = "x".join(map(str, result.shape))
    return (
        f"{result.name:<26} {shape:<14} largest difference {result.difference:.3e}  "
        f"std {result.std:.3e}  {verdict}"
    )
