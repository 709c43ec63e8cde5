"""Ablations: every variant trained by the same stages, steps and batches, from several seeds.

Of a seed, the variants share what no clip's question has entered yet (vision tower, pictures,
packers), trained once as the paper says: the streams are not used by then, and ``released`` is
another reading of the same network. ``without_lape`` shares nothing, for its positions are another
from the first stage on; it is trained whole. So each ends after the same stages of the same length.
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
from safetensors.torch import load_file

from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends.torch import TorchBackend
from llava_st_ros.errors import ConfigError
from llava_st_ros.evaluation.report import MetricRow, summarize
from llava_st_ros.evaluation.simulated import SimulatedEvaluation, simulated_questions
from llava_st_ros.training.tiny import pipeline
from llava_st_ros.training.tiny.settings import read_settings
from llava_st_ros.training.tiny.variants import PAPER, VARIANTS, Variant

SHARED = "shared"
RESULT = "metrics.json"


@dataclass(frozen=True)
class Plan:
    """The YAML's section ``ablation``; ``split`` and ``clips`` say what is asked at the end."""

    seeds: tuple[int, ...]
    variants: tuple[str, ...] = tuple(VARIANTS)
    split: str = "validation"
    clips: int = 200

    def __post_init__(self) -> None:
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown or not self.seeds or not self.variants:
            raise ConfigError(
                f"ablation of {', '.join(map(str, unknown)) or 'nothing'}"
                f"; expected seeds, and variants among {', '.join(VARIANTS)}",
            )


@dataclass(frozen=True)
class Result:
    """What a variant reached from one seed."""

    variant: str
    seed: int
    metrics: tuple[MetricRow, ...]


def ablate(
    config_path: Path, data: Path, work: Path, store: Path | None, seeds: Sequence[int] = ()
) -> Iterator[Result]:
    """Train and measure every variant from every seed; yields each as it is ready.

    A run that was stopped goes on where it was: ``work`` keeps the stages and results.
    ``store`` keeps the clips that are asked about. ``seeds`` are those of the plan to train here,
    all if none: seeds share nothing in ``work``, so that processes can train them side by side.
    """
    settings = read_settings(config_path)
    plan = read_plan(settings)
    if not set(seeds) <= set(plan.seeds):
        raise ConfigError(
            f"seeds {', '.join(map(str, seeds))}"
            f"; expected some of {', '.join(map(str, plan.seeds))}, those of {config_path}",
            "choose among them or add to the YAML",
        )
    for seed in seeds or plan.seeds:
        of_seed = work / f"seed-{seed}"
        chosen = {**settings, "seed": seed}
        shared = {**chosen, "stages": dict(_shared_stages(settings["stages"]))}
        if any(VARIANTS[name].shares for name in plan.variants):
            _train(PAPER, shared, data, of_seed / SHARED)
        for name in plan.variants:
            variant, folder = VARIANTS[name], of_seed / name
            model = {**chosen["model"], "compat": variant.compat}
            own = {**chosen, "model": model}
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / RESULT).exists():
                if variant.shares:
                    _link(of_seed / SHARED, folder, shared["stages"])
                _train(variant, own, data, folder)
                rows = measure(variant, own, folder, plan, store)
                write_text(folder / RESULT, json.dumps([asdict(row) for row in rows], indent=1))
            found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            yield Result(name, seed, tuple(MetricRow(**row) for row in found))


def read_plan(settings: Mapping[str, Any]) -> Plan:
    section = settings.get("ablation")
    try:
        values = dict(section if isinstance(section, dict) else {})
        lists = {k: tuple(values[k]) for k in ("seeds", "variants") if k in values}
        return Plan(**{**values, **lists})
    except TypeError as error:
        raise ConfigError(
            f"ablation: {error}; expected {', '.join(Plan.__dataclass_fields__)}"
        ) from error


def measure(
    variant: Variant, settings: Mapping[str, Any], folder: Path, plan: Plan, store: Path | None
) -> list[MetricRow]:
    """The metrics of the variant that was trained in ``folder``, on a GPU where there is one."""
    tokenizer = pipeline.learn_tokenizer(settings["model"])
    config = pipeline.model_config(settings["model"], tokenizer)
    model = variant.model(config)
    last = list(settings["stages"])[-1]
    model.load_state_dict(load_file(folder / f"{last}.safetensors"))
    backend = TorchBackend((model, config), device="cuda" if torch.cuda.is_available() else "cpu")
    evaluation = SimulatedEvaluation(backend, tokenizer)
    for clip in simulated_questions(plan.split, range(plan.clips), config, store=store):
        evaluation.run(clip)
    return summarize(evaluation.scores)


def as_records(results: list[Result]) -> list[dict[str, Any]]:
    """A record for each variant and metric: the value of every seed and their mean."""
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
    """Those before the first with questions about clips."""
    return takewhile(lambda item: item[1].get("video", 0.0) == 0.0, stages.items())


def _train(variant: Variant, settings: Mapping[str, Any], data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = {k: v for k, v in settings.items() if k != "ablation"}
    write_text(folder / "run.yaml", yaml.safe_dump(values, sort_keys=False))
    pipeline.train(folder / "run.yaml", data, folder, None, variant=variant)


def _link(shared: Path, folder: Path, stages: Mapping[str, Any]) -> None:
    """The shared stages' weights and the frozen tower's features, as if trained in ``folder``."""
    for name in (*(f"{stage}.safetensors" for stage in stages), "vision_features.npy"):
        if (shared / name).exists() and not (folder / name).exists():
            os.link(shared / name, folder / name)
