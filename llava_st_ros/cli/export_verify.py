"""``llava-st export verify``: is an engine directory whole, and does it compute its checkpoint?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "check an engine directory's files and, against a checkpoint, its numbers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE_DIR", type=Path, help="the engine directory")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKPOINT",
        help="prove the numbers anew against the checkpoint it was made from",
    )
    parser.add_argument(
        "--device", default=argparse.SUPPRESS, help="where to run it (default: as its target says)"
    )
    parser.add_argument(
        "--simulated",
        type=int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="ask about N simulated clips too (default 0)",
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        default=argparse.SUPPRESS,
        help="beyond the bounds say where: the first node of each graph that differs",
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the proof as JSON"
    )


def run(args: argparse.Namespace) -> int:
    """0 where everything holds. Raises EngineError where it does not."""
    from llava_st_ros.engine.manifest import check_files, read_manifest

    manifest = read_manifest(args.engine)
    check_files(args.engine, manifest, whole=True)
    if not args.json:
        print(f"{args.engine}: {len(manifest.files)} files as exported")
    if args.against is None:
        if args.json:
            print(json.dumps({"proof": dict(manifest.proof), "problems": []}))
        return 0
    from llava_st_ros.export.engine_directory import verify

    proof, problems = verify(
        args.engine, args.against, device=args.device, clips=args.simulated, locate=args.bisect
    )
    if args.json:
        print(json.dumps({"proof": proof.values(), "problems": problems}))
    else:
        for line in (*proof.lines(), *problems):
            print(line)
        print("agrees" if not problems else "DIFFERS")
    return 1 if problems else 0
