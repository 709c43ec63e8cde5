"""The proof in a manifest: how far an engine directory's backend is from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import EngineError
from llava_st_ros.export.target import Bounds
from llava_st_ros.export.validate.accuracy import Accuracy
from llava_st_ros.export.validate.reference_inputs import reference_frames, reference_prompts
from llava_st_ros.records import Prompt

NEW_TOKENS = 24


@dataclass(frozen=True)
class Difference:
    """Of one graph's outputs: the largest absolute difference, and it over the reference's
    standard deviation."""

    largest: float
    relative: float


@dataclass(frozen=True)
class Proof:
    """Engine against reference on ``export.reference_inputs``.

    ``graphs`` in the network's order, each fed with what the ones before it gave;
    ``divergence`` is the mean Kullback-Leibler divergence of the engine's distribution over the
    vocabulary from the reference's, nats, where both are given the reference's own words;
    ``equal_ids`` is the share of greedy answers that are equal, id for id. ``simulated`` is None
    where nothing was asked about simulated clips.
    """

    graphs: dict[str, Difference]
    divergence: float
    equal_ids: float
    simulated: Accuracy | None = None

    def problems(self, bounds: Bounds) -> list[str]:
        """What lies beyond the bounds, first graph first."""
        found = [
            f"{name} differs by {difference.relative:.2e} of the reference's deviation "
            f"(bound {bounds.relative:g})"
            for name, difference in self.graphs.items()
            if not difference.relative <= bounds.relative
        ]
        if not self.divergence <= bounds.divergence:
            found.append(f"divergence {self.divergence:.2e} (bound {bounds.divergence:g})")
        if not self.equal_ids >= bounds.equal_ids:
            found.append(f"{self.equal_ids:.0%} of ids equal (bound {bounds.equal_ids:.0%})")
        if self.simulated is not None and not self.simulated.loss <= bounds.viou_loss:
            found.append(f"{self.simulated.line()} (bound: {bounds.viou_loss:g} less)")
        return found

    def lines(self) -> list[str]:
        """For people."""
        return [
            *(
                f"{name:<9} largest difference {d.largest:.2e}, {d.relative:.2e} of the deviation"
                for name, d in self.graphs.items()
            ),
            f"divergence {self.divergence:.2e} nats, {self.equal_ids:.0%} of answers equal",
            *([self.simulated.line()] if self.simulated else []),
        ]

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Observation:
    """What a backend made of the reference inputs: outputs by graph, the language graph's being
    logits [K, vocabulary] along ``teacher_forced``; and its own greedy ``answers``, token ids."""

    outputs: dict[str, np.ndarray]
    answers: list[list[int]]


def observe(backend: Backend, teacher_forced: list[list[int]] | None = None) -> Observation:
    """Run a backend on the reference inputs. It is fed the tokens of ``teacher_forced``, answers of
    the backend that it will be compared with; None: its own.

    Nothing of the backend is kept, so that the other one can take its place in memory.
    """
    config = backend.describe().model
    outputs: dict[str, np.ndarray] = {}
    features = [backend.encode_frame(frame) for frame in reference_frames(config)]
    outputs["vision"] = np.stack([_array(frame) for frame in features])
    image = backend.image_tokens(features[0])
    outputs["image"] = _array(image)
    video = backend.pack(features, range(len(features)))
    outputs["packer"] = np.concatenate((_array(video.fast), _array(video.slow)))
    seen = list(zip(reference_prompts(config), (video, image)))
    answers = [_greedy(backend, prompt, visual) for prompt, visual in seen]
    outputs["language"] = np.concatenate(
        [
            _teacher_forced(backend, *asked, ids)
            for asked, ids in zip(seen, teacher_forced or answers)
        ]
    )
    return Observation(outputs, answers)


def compare(reference: Observation, engine: Observation) -> Proof:
    """Compare the engine with the reference, whose answers it was fed (teacher forcing)."""
    graphs = {
        name: _difference(output, engine.outputs[name])
        for name, output in reference.outputs.items()
    }
    logits = (reference.outputs["language"], engine.outputs["language"])
    equal = [ours == theirs for ours, theirs in zip(reference.answers, engine.answers)]
    return Proof(graphs, _divergence(*logits), float(np.mean(equal)))


def check(proof: Proof, bounds: Bounds, partings: Sequence[str] = ()) -> None:
    """Raise EngineError where the engine is beyond its bounds; ``partings`` says where it begins
    (``export.bisect``)."""
    problems = proof.problems(bounds)
    if problems:
        raise EngineError(
            (
                "the engine does not compute what the checkpoint does: "
                + "; ".join((*problems, *partings))
            )
            + "; expected differences within the target's bounds",
            "choose a higher precision, or loosen the target's bounds if the accuracy is enough",
        )


def _greedy(backend: Backend, prompt: Prompt, visual: Any) -> list[int]:
    cache = backend.new_cache()
    logits = backend.prefill(backend.embed(prompt, visual), cache)
    ids = [int(logits.argmax())]
    while len(ids) < NEW_TOKENS:
        ids.append(int(backend.extend(ids[-1:], cache)[-1].argmax()))
    return ids


def _teacher_forced(backend: Backend, prompt: Prompt, visual: Any, ids: list[int]) -> np.ndarray:
    """Logits [K, vocabulary] along a given answer, its first word by word, the rest at once."""
    cache = backend.new_cache()
    rows = [backend.prefill(backend.embed(prompt, visual), cache)[None]]
    rows.append(backend.extend(ids[:1], cache))
    rows.append(backend.extend(ids[1:], cache))
    return np.concatenate(rows)


def _difference(reference: np.ndarray, engine: np.ndarray) -> Difference:
    # Row by row: a window of the published model is a gigabyte.
    mean = reference.mean(dtype=np.float64)
    largest = float(np.max([np.abs(a - b).max() for a, b in zip(reference, engine)]))
    squares = [np.square(row - mean).mean(dtype=np.float64) for row in reference]
    deviation = float(np.sqrt(np.mean(squares)))
    return Difference(largest, largest / deviation if deviation else np.inf if largest else 0.0)


def _divergence(reference: np.ndarray, engine: np.ndarray) -> float:
    ours, theirs = _log_softmax(reference), _log_softmax(engine)
    return float((np.exp(ours) * (ours - theirs)).sum(-1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float32)
