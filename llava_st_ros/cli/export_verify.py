"""``llava-st export verify``: check an engine directory's files and, optionally, its proof."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llava_st_ros.cli.export_flags import add_shared_flags

HELP = "check an engine directory's files and, with --against, measure its proof again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE_DIR", type=Path, help="the engine directory")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKPOINT",
        help="measure the proof again, against the checkpoint it was exported from",
    )
    add_shared_flags(
        parser,
        {
            "--device": "device that runs the engine (default: its target's)",
            "--simulated": "number of simulated clips to answer as well (default: 0)",
            "--first-divergence": "if the proof fails, name the first node of each graph that "
            "differs",
            "--json": "print the proof as JSON",
        },
        action=True,
    )


def run(args: argparse.Namespace) -> int:
    """Return 0 if the proof is within the target's bounds, 1 if not.

    Raises:
        EngineError: Files are missing or changed, or the checkpoint is another one.
    """
    from llava_st_ros.engine.manifest import check_files, read_manifest
    from llava_st_ros.export.validate.stored_proof import bounds_of, proof_lines

    manifest = read_manifest(args.engine)
    check_files(args.engine, manifest, hash_all=True)
    if not args.json:
        print(f"{args.engine}: {len(manifest.files)} files as exported")
    if args.against is None:
        if args.json:
            print(json.dumps({"proof": dict(manifest.proof), "problems": []}))
        else:
            print("\n".join(proof_lines(manifest)))
        return 0
    from llava_st_ros.export.engine_directory import verify

    proof, violations = verify(
        args.engine,
        args.against,
        device=args.device,
        simulated_clips=args.simulated,
        find_divergence=args.first_divergence,
    )
    if args.json:
        print(json.dumps({"proof": proof.as_dict(), "problems": violations}))
    else:
        for line in proof.summary_lines(bounds_of(manifest)):
            print(line)
        for line in violations:
            print(f"DIFFERS: {line}")
        if not violations:
            print("agrees")
    return 1 if violations else 0
