"""Progress and ObservedBackend: each call of the backend is a step."""

from __future__ import annotations

from typing import Any

import pytest

from llava_st_ros.ros.progress import ObservedBackend, Progress

METHODS = {
    "encode_frame": ("encode_frame", 1),
    "pack": ("pack", 2),
    "image_tokens": ("image_tokens", 1),
    "embed": ("embed", 2),
    "prefill": ("prefill", 2),
    "extend": ("decode", 2),
}


class Recorder:
    """A backend that records the step during each call."""

    extra = "another attribute"

    def __init__(self) -> None:
        self.now = 0.0
        self.progress = Progress(lambda: self.now)
        self.steps: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(name)

        def call(*arguments: object) -> object:
            self.steps[name] = self.progress.step_name
            self.now += 10.0
            assert self.progress.idle_seconds == 10.0
            return (name, *arguments)

        return call


def test_every_call_is_a_step_and_its_end_is_progress() -> None:
    backend = Recorder()
    observed = ObservedBackend(backend, backend.progress)
    with backend.progress.step("a tick"):
        for name, (_, count) in METHODS.items():
            arguments = tuple(range(count))
            assert getattr(observed, name)(*arguments) == (name, *arguments)
            assert backend.progress.idle_seconds == 0.0
            assert backend.progress.step_name == "a tick"
    assert backend.steps == {name: step for name, (step, _) in METHODS.items()}
    assert observed.extra == "another attribute"


def test_call_that_raises_ends_its_step() -> None:
    progress = Progress()

    class Broken:
        def encode_frame(self, image: object) -> None:
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        ObservedBackend(Broken(), progress).encode_frame(None)
    assert progress.step_name == ""
