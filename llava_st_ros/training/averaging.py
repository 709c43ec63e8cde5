"""Averaging the weights of several checkpoints of one model.

A checkpoint that is fine-tuned on a wider distribution loses accuracy on the original one. The
average of both keeps the accuracy of the original and most of the gain: WiSE-FT (Wortsman et al.,
"Robust fine-tuning of zero-shot models", CVPR 2022, arXiv 2109.01903); of more than two: model
soups (arXiv 2203.05482).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from llava_st_ros.backends import is_engine_directory
from llava_st_ros.calibration import Calibration
from llava_st_ros.checkpoint_config import without_calibration
from llava_st_ros.config import ModelConfig
from llava_st_ros.errors import CheckpointError, ConfigError, shown
from llava_st_ros.model.checkpoint import CheckpointFiles, read_checkpoint_files
from llava_st_ros.model.tensor_files import ADAPTER_CONFIG, TensorFiles, open_safetensors
from llava_st_ros.model.tensor_writer import (
    SHARD_BYTES,
    ComputedTensors,
    new_checkpoint,
    require_new_folder,
    write_small_files,
    write_tensors,
)

SUM_TOLERANCE = 1e-6  # of the weights' sum: 0.3333333 three times is accepted
BLOCK_VALUES = 2**22  # computed at a time: 32 MiB in float64
_ONE_MODEL = "average checkpoints that were trained from one checkpoint"


@dataclass(frozen=True)
class Term:
    """A checkpoint in an average.

    Attributes:
        folder: Its folder.
        tensors: Its tensors.
        weight: Its weight in the average.
    """

    folder: Path
    tensors: TensorFiles
    weight: float

    def product(self, name: str, values: Tensor) -> Tensor:
        """Return the weight times values of a tensor, in float64.

        Raises:
            CheckpointError: A value is NaN or infinite.
        """
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{self.folder}: {name} has a value that is NaN or infinite")
        return self.weight * values.double()


@dataclass(frozen=True)
class AveragedTensors(ComputedTensors):
    """The parameters of the averaged checkpoint, each computed when it is needed.

    Attributes:
        base: The first checkpoint's tensors.
        terms: The checkpoints, those of weight 0 left out.
        shapes: The shapes of the network's parameters, by name.
    """

    operation: ClassVar[str] = "averaging"

    base: TensorFiles
    terms: tuple[Term, ...]
    shapes: dict[str, tuple[int, ...]]

    def compute(self, name: str) -> Tensor:
        """Average a tensor in float64 and round it once, to the dtype of the first checkpoint.

        Raises:
            CheckpointError: A value in a checkpoint is NaN or infinite.
        """
        result = torch.empty(self.shapes[name], dtype=self.dtype(name))
        values = result.view(-1)
        with ExitStack() as stack:
            sources = [
                stack.enter_context(open_safetensors(term.tensors.files[name])).tensor(name)
                for term in self.terms
            ]
            for start in range(0, len(values), BLOCK_VALUES):
                block = slice(start, start + BLOCK_VALUES)
                products = (
                    term.product(name, source.view(-1)[block])
                    for term, source in zip(self.terms, sources)
                )
                values[block] = reduce(torch.add, products)
        return result


@dataclass(frozen=True)
class LeftOut:
    """What an averaged checkpoint does not have of the checkpoints that it was made from.

    Attributes:
        calibrations: The folders of those with a calibration, which belongs to their own weights.
        tensors: The names of tensors that the network does not use.
    """

    calibrations: tuple[Path, ...]
    tensors: tuple[str, ...]


def average(
    checkpoints: Sequence[Path],
    weights: Sequence[float] | None,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> LeftOut:
    """Write the weighted average of several checkpoints of one model to ``out``.

    Dtypes, tokenizer and settings are those of the first checkpoint. A checkpoint of weight 0 is
    checked like the others, but its values are not read.

    Args:
        checkpoints: Two or more checkpoint folders, with the same geometry, settings and tokenizer.
            They may differ in their calibration.
        weights: One for each checkpoint; None for equal weights. They sum to 1; a weight below 0 or
            above 1 extrapolates.
        out: The folder to write; it must not exist.
        shard_bytes: The maximum size of an output file, unless a single tensor is larger.
        on_tensor: Called after each tensor with the numbers of tensors done and in total.

    Returns:
        What ``out`` does not contain.

    Raises:
        CheckpointError: A checkpoint cannot be read, does not fit its own config or differs from
            the first; a value is NaN or infinite; ``out`` exists or cannot be written, or the disk
            is full. ``out`` is then as it was.
        ConfigError: The weights do not fit the checkpoints or do not sum to 1.
    """
    folders, out = [Path(folder) for folder in checkpoints], Path(out)
    shares = check_weights(weights, len(folders))
    require_new_folder(out)
    read = [_read(folder) for folder in folders]
    first = read[0]
    for folder, files in zip(folders[1:], read[1:]):
        _check_same_model(folders[0], first, folder, files)
    averaged = AveragedTensors(
        first.tensors,
        tuple(
            Term(folder, files.tensors, share)
            for folder, files, share in zip(folders, read, shares)
            if share != 0
        ),
        {name: first.tensors.shapes[name] for name in first.parameters},
    )
    with new_checkpoint(out) as part:
        write_small_files(without_calibration(first.values), folders[:1], part)
        if first.tokenizer is not None:
            first.tokenizer.save(part)
        write_tensors(averaged, part, shard_bytes=shard_bytes, on_tensor=on_tensor)
    calibrated = (f for f, files in zip(folders, read) if files.config.calibration != Calibration())
    names = {name for files in read for name in files.tensors.shapes}
    return LeftOut(tuple(dict.fromkeys(calibrated)), tuple(sorted(names - averaged.shapes.keys())))


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return the weights of ``count`` checkpoints, divided by their sum.

    Args:
        weights: The weights; None for equal ones.
        count: The number of checkpoints.

    Raises:
        ConfigError: There are fewer than two checkpoints, another number of weights, or a weight
            that is not finite, or the sum differs from 1 by more than SUM_TOLERANCE.
    """
    if count < 2:
        raise ConfigError(f"{count} checkpoint{'s' * (count != 1)} to average; expected at least 2")
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise ConfigError(
            f"{len(weights)} weight{'s' * (len(weights) != 1)} for {count} checkpoints; expected "
            "one for each"
        )
    for number, weight in enumerate(weights, start=1):
        if not math.isfinite(weight):
            raise ConfigError(f"weight {number} is {weight}; expected a finite number")
    total = sum(weights)
    if not abs(total - 1) <= SUM_TOLERANCE:
        raise ConfigError(f"the weights sum to {total:.9g}; expected 1")
    return [weight / total for weight in weights]


def _read(folder: Path) -> CheckpointFiles:
    """Read a checkpoint's small files and headers; the error names the folder."""
    if is_engine_directory(folder):
        raise CheckpointError(
            f"{folder} is an engine directory; expected a checkpoint",
            "average the checkpoints that engines were exported from, then export again",
        )
    if (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder} is an adapter; expected a full checkpoint",
            "merge it with llava-st train merge first",
        )
    try:
        return read_checkpoint_files(folder)
    except (CheckpointError, ConfigError) as error:
        if str(folder) in error.problem:
            raise
        raise type(error)(f"{folder}: {error.problem}", error.remedy) from error


def _check_same_model(
    first_folder: Path, first: CheckpointFiles, folder: Path, files: CheckpointFiles
) -> None:
    digests = [each.tokenizer and each.tokenizer.digest for each in (first, files)]
    if digests.count(None) == 1:
        raise CheckpointError(
            f"{(first_folder, folder)[digests.index(None)]} has no tokenizer, another checkpoint "
            "has one",
            "copy the tokenizer files into the checkpoint folder",
        )
    ours, others = _flat_settings(first.config), _flat_settings(files.config)
    differences = [
        f"{name} ({shown(value)} and {shown(others[name])})"
        for name, value in ours.items()
        if value != others[name]
    ]
    if digests[0] != digests[1]:
        differences.append("tokenizer")
    if differences:
        raise CheckpointError(
            f"{first_folder} and {folder} differ in {', '.join(differences)}", _ONE_MODEL
        )


def _flat_settings(config: ModelConfig) -> dict[str, Any]:
    """All settings but the calibration, by names such as ``language.hidden_size``."""
    settings = asdict(config)
    del settings["calibration"]
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            flat[name] = value
    return flat
