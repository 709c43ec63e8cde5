"""Measure the proof: run the torch reference and an engine directory on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_st_ros.backends import create_engine_backend, require_tokenizer
from llava_st_ros.backends.engine_files import open_engine
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.evaluation.simulated import ClipQuestions
from llava_st_ros.export.validate.accuracy import (
    ClipAnswers,
    answer_clips,
    compare_answers,
    load_simulated_clips,
)
from llava_st_ros.export.validate.proof import (
    BackendOutputs,
    Proof,
    compare_outputs,
    run_reference_inputs,
)
from llava_st_ros.model.checkpoint import load_checkpoint


def measure_proof(
    checkpoint: Path,
    engine: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str = "",
    simulated_clips: int = 0,
) -> Proof:
    """Compare an engine directory with its checkpoint in float32 torch.

    The two are in memory one after the other, never together.

    Args:
        checkpoint: Folder of the checkpoint.
        engine: Engine directory.
        overrides: Config values that replace the checkpoint's, as in ``load_checkpoint``.
        device: Device of the engine; empty: the backend's default.
        simulated_clips: Number of simulated clips to answer as well.
    """
    expected, expected_answers, clips = _run_checkpoint(checkpoint, overrides, simulated_clips)
    files = open_engine(engine, read_manifest(engine).backend)
    backend = create_engine_backend(files, device=device)
    outputs = run_reference_inputs(backend, teacher_forced=expected.answers)
    proof = compare_outputs(expected, outputs)
    if expected_answers is None:
        return proof
    answers = answer_clips(backend, require_tokenizer(files.tokenizer, engine), clips)
    return replace(proof, simulated=compare_answers(expected_answers, answers))


def _run_checkpoint(
    folder: Path, overrides: Mapping[str, Any] | None, clip_count: int
) -> tuple[BackendOutputs, ClipAnswers | None, list[ClipQuestions]]:
    """Outputs and answers of the reference, and the clips; the network is freed on return."""
    checkpoint = load_checkpoint(folder, overrides=overrides)
    backend = TorchBackend(checkpoint)
    if not clip_count:
        return run_reference_inputs(backend), None, []
    tokenizer = require_tokenizer(checkpoint.tokenizer, folder)
    clips = load_simulated_clips(checkpoint.config, clip_count)
    return run_reference_inputs(backend), answer_clips(backend, tokenizer, clips), clips
