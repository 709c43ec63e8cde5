"""Ablations: every variant trained with the same stages, steps and batches, from several seeds.

The variants of a seed share the stages before the first one with questions about clips (vision
tower, single frames, packers). These are trained once, as ``paper``: they do not use the streams,
and ``released`` reads the same network differently. ``without_lape`` differs from the first stage
on, so all its stages are trained separately. Every variant has the same stages of the same length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import yaml

from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.errors import CheckpointError, ConfigError, DataError
from llava_st_ros.evaluation.results import MetricRow
from llava_st_ros.evaluation.scoring import summarize
from llava_st_ros.evaluation.simulated import SimulatedEvaluation, simulated_questions
from llava_st_ros.files.json_files import read_json
from llava_st_ros.files.schema import build
from llava_st_ros.files.tensor_file import read_tensors
from llava_st_ros.training.tiny import pipeline
from llava_st_ros.training.tiny.settings import read_settings
from llava_st_ros.training.tiny.stages import ConversationStage
from llava_st_ros.training.tiny.variants import PAPER, VARIANTS, Variant

SHARED = "shared"
RESULT_FILE = "metrics.json"


@dataclass(frozen=True)
class AblationConfig:
    """The YAML's section ``ablation``.

    Attributes:
        seeds: Every variant is trained once from each.
        variants: Names of VARIANTS.
        split: The simulated split of the evaluation.
        clips: The number of its clips to evaluate on.
    """

    seeds: tuple[int, ...]
    variants: tuple[str, ...] = tuple(VARIANTS)
    split: str = "validation"
    clips: int = 200

    def __post_init__(self) -> None:
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown:
            raise ConfigError(
                f"ablation: unknown variants {', '.join(map(str, unknown))}; "
                f"expected some of {', '.join(VARIANTS)}"
            )
        if not self.seeds or not self.variants:
            raise ConfigError("ablation: seeds or variants is empty", "list at least one of each")


@dataclass(frozen=True)
class AblationResult:
    """The metrics of a variant trained from one seed."""

    variant: str
    seed: int
    metrics: tuple[MetricRow, ...]


def ablate(
    config_path: Path, data: Path, work: Path, store: Path | None, seeds: Sequence[int] = ()
) -> Iterator[AblationResult]:
    """Train and evaluate every variant from every seed, and yield each result when it is ready.

    An interrupted run resumes where it stopped: ``work`` keeps stages and results.

    Args:
        config_path: A training YAML with a section ``ablation``.
        data: Folder of the training clips.
        work: The work folder.
        store: Folder that caches the evaluation clips.
        seeds: Train only these of the YAML's seeds; all if empty. Seeds share nothing in ``work``,
            so several processes can train them in parallel.
    """
    settings = read_settings(config_path)
    config = read_ablation_config(settings)
    unknown = [seed for seed in seeds if seed not in config.seeds]
    if unknown:
        known = ", ".join(map(str, config.seeds))
        raise ConfigError(
            f"{config_path} has the seeds {known}, not {', '.join(map(str, unknown))}"
        )
    for seed in seeds or config.seeds:
        folder = work / f"seed-{seed}"
        of_seed = {**settings, "seed": seed}
        shared = {**of_seed, "stages": dict(_shared_stages(settings["stages"]))}
        if any(VARIANTS[name].shares_early_stages for name in config.variants):
            _train(PAPER, shared, data, folder / SHARED)
        for name in config.variants:
            variant, own = VARIANTS[name], folder / name
            if not (own / RESULT_FILE).exists():
                own.mkdir(parents=True, exist_ok=True)
                if variant.shares_early_stages:
                    _link_shared(folder / SHARED, own, shared["stages"])
                model = {**settings["model"], "compat": variant.compat}
                of_variant = {**of_seed, "model": model}
                _train(variant, of_variant, data, own)
                rows = evaluate(variant, of_variant, own, config, store)
                write_text(own / RESULT_FILE, json.dumps([asdict(row) for row in rows], indent=1))
            yield AblationResult(name, seed, _read_metrics(own / RESULT_FILE))


def _read_metrics(path: Path) -> tuple[MetricRow, ...]:
    again = "delete it to evaluate again"
    rows = read_json(path, DataError, again, expected=list, nan=True)
    return tuple(build(MetricRow, row, f"{path}: row {i}", DataError) for i, row in enumerate(rows))


def read_ablation_config(settings: Mapping[str, Any]) -> AblationConfig:
    """Read the section ``ablation`` of a training YAML.

    Raises:
        ConfigError: It is missing, or a setting is missing, unknown or invalid.
    """
    return build(AblationConfig, settings.get("ablation", {}), "ablation", ConfigError)


def evaluate(
    variant: Variant,
    settings: Mapping[str, Any],
    folder: Path,
    config: AblationConfig,
    store: Path | None,
) -> list[MetricRow]:
    """Return the metrics of the variant trained in ``folder``. Runs on a GPU if there is one."""
    tokenizer = pipeline.learn_tokenizer(settings["model"])
    geometry = pipeline.model_config(settings["model"], tokenizer)
    model = variant.model(geometry)
    last = list(settings["stages"])[-1]
    weights = folder / f"{last}.safetensors"
    model.load_state_dict(read_tensors(weights, CheckpointError, framework="pt"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = TorchBackend((model, geometry), device=device)
    evaluation = SimulatedEvaluation(backend, tokenizer)
    clips = range(config.clips)
    for clip in simulated_questions(config.split, clips, geometry, store=store):
        evaluation.run(clip)
    return summarize(evaluation.cases)


def as_records(results: list[AblationResult]) -> list[dict[str, Any]]:
    """Return a record for each variant and metric: the value of every seed and their mean."""
    values: dict[tuple[str, str, str], dict[int, float]] = {}
    for result in results:
        for row in result.metrics:
            key = (row.task, row.metric, result.variant)
            values.setdefault(key, {})[result.seed] = row.value
    return [
        {
            "task": task,
            "metric": metric,
            "variant": variant,
            "mean": sum(by_seed.values()) / len(by_seed),
            "seeds": {str(seed): value for seed, value in by_seed.items()},
        }
        for (task, metric, variant), by_seed in values.items()
    ]


def _shared_stages(stages: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The stages before the first one with questions about clips."""

    def is_shared(item: tuple[str, Any]) -> bool:
        _, stage = pipeline.read_stage(*item)
        return not isinstance(stage, ConversationStage) or stage.video == 0.0

    return takewhile(is_shared, stages.items())


def _train(variant: Variant, settings: Mapping[str, Any], data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v for k, v in settings.items() if k != "ablation"}
    write_text(folder / "run.yaml", yaml.safe_dump(values, sort_keys=False))
    pipeline.train(folder / "run.yaml", data, folder, None, variant=variant)


def _link_shared(shared: Path, folder: Path, stages: Mapping[str, Any]) -> None:
    """Link the shared stages' weights and vision features, as if they were made in ``folder``."""
    weights = [shared / f"{stage}.safetensors" for stage in stages]
    for file in [*weights, *shared.glob("vision_features-*.npy")]:
        if file.exists() and not (folder / file.name).exists():
            os.link(file, folder / file.name)
