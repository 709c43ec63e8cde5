"""Measure the proof: run the torch reference and an engine directory on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_st_ros.backends import create_engine_backend, require_tokenizer
from llava_st_ros.backends.engine_files import open_engine
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.engine.manifest import read_manifest
from llava_st_ros.evaluation.simulated import ClipQuestions
from llava_st_ros.export.validate import agreement
from llava_st_ros.export.validate.accuracy import (
    ClipAnswers,
    answer_clips,
    compare_answers,
    load_simulated_clips,
)
from llava_st_ros.export.validate.agreement import RecordedAnswer, answer_reference_clips
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
    reference = _run_checkpoint(checkpoint, overrides, simulated_clips)
    files = open_engine(engine, read_manifest(engine).backend)
    backend = create_engine_backend(files, device=device)
    outputs = run_reference_inputs(backend, teacher_forced=reference.outputs.answers)
    proof = compare_outputs(reference.outputs, outputs)
    if reference.answers:
        tokenizer = require_tokenizer(files.tokenizer, engine)
        answers = answer_reference_clips(backend, tokenizer, teacher=reference.answers)
        proof = replace(proof, answers=agreement.compare_answers(reference.answers, answers))
    if reference.simulated is not None:
        tokenizer = require_tokenizer(files.tokenizer, engine)
        simulated = answer_clips(backend, tokenizer, reference.clips)
        proof = replace(proof, simulated=compare_answers(reference.simulated, simulated))
    return proof


@dataclass(frozen=True)
class _Reference:
    """What the reference computes.

    Attributes:
        outputs: From the reference inputs.
        answers: On the reference clips; empty without a tokenizer.
        simulated: On the simulated clips; None if there are none.
        clips: The simulated clips.
    """

    outputs: BackendOutputs
    answers: Sequence[RecordedAnswer]
    simulated: ClipAnswers | None
    clips: Sequence[ClipQuestions]


def _run_checkpoint(
    folder: Path, overrides: Mapping[str, Any] | None, clip_count: int
) -> _Reference:
    """Run the reference; the network is freed on return."""
    checkpoint = load_checkpoint(folder, overrides=overrides)
    backend, tokenizer = TorchBackend(checkpoint), checkpoint.tokenizer
    clips: list[ClipQuestions] = []
    if clip_count:
        require_tokenizer(tokenizer, folder)
        clips = load_simulated_clips(checkpoint.config, clip_count)
    return _Reference(
        run_reference_inputs(backend),
        answer_reference_clips(backend, tokenizer) if tokenizer is not None else (),
        answer_clips(backend, require_tokenizer(tokenizer, folder), clips) if clip_count else None,
        clips,
    )
