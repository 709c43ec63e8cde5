"""Loads the model that the node's parameters name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.ros.parameters import NodeParameters
from llava_st_ros.text.tokenizer import Tokenizer


class LoadedModel(NamedTuple):
    """A loaded model.

    Attributes:
        backend: What runs the network.
        tokenizer: The model's tokenizer.
        folder: The checkpoint folder or engine directory that was loaded.
    """

    backend: Backend
    tokenizer: Tokenizer
    folder: Path


LoadModel = Callable[[NodeParameters], LoadedModel]


def load_model(parameters: NodeParameters) -> LoadedModel:
    """Load the model that the parameters name, or the packaged one if ``model`` is empty.

    Raises:
        LlavaStError: The folder, backend, device or precision cannot be used.
    """
    folder = Path(
        parameters.model
        or default_model(parameters.backend, parameters.device, parameters.precision)
    )
    backend, tokenizer = load_backend(
        folder,
        parameters.backend,
        device=parameters.device,
        precision=parameters.precision,
        threads=parameters.threads,
    )
    return LoadedModel(backend, tokenizer, folder)
