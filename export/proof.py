"""The proof in a manifest: how far an engine directory's backend is from the reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import EngineError
from llava_st_ros.export.reference_inputs import reference_frames, reference_prompts
from llava_st_ros.export.target import Bounds
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
    ``equal_ids`` is the share of greedy answers that are equal, id for id.
    """

    graphs: dict[str, Difference]
    divergence: float
    equal_ids: float

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
        return found

    def lines(self) -> list[str]:
        """For people."""
        return [
            *(
                f"{name:<9} largest difference {d.largest:.2e}, {d.relative:.2e} of the deviation"
                for name, d in self.graphs.items()
            ),
            f"divergence {self.divergence:.2e} nats, {self.equal_ids:.0%} of answers equal",
        ]

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def prove(reference: Backend, engine: Backend) -> Proof:
    """Run both on the reference inputs."""
    config = reference.describe().model
    frames = reference_frames(config)
    graphs: dict[str, Difference] = {}
    features = [[backend.encode_frame(f) for f in frames] for backend in (reference, engine)]
    graphs["vision"] = _difference(*(np.stack([_array(f) for f in side]) for side in features))
    images = [b.image_tokens(f[0]) for b, f in zip((reference, engine), features)]
    graphs["image"] = _difference(*map(_array, images))
    videos = [b.pack(f, range(len(frames))) for b, f in zip((reference, engine), features)]
    graphs["packer"] = _difference(
        *(np.concatenate((_array(v.fast), _array(v.slow))) for v in videos)
    )
    rows, equal = [], []
    for prompt, visual in zip(reference_prompts(config), (videos, images)):
        answers = [_greedy(b, prompt, v) for b, v in zip((reference, engine), visual)]
        equal.append(answers[0] == answers[1])
        rows.append(
            [_taught(b, prompt, v, answers[0]) for b, v in zip((reference, engine), visual)]
        )
    ours, theirs = (np.concatenate(side) for side in zip(*rows))
    graphs["language"] = _difference(ours, theirs)
    return Proof(graphs, _divergence(ours, theirs), float(np.mean(equal)))


def check(proof: Proof, bounds: Bounds) -> None:
    """Raise EngineError where the engine is beyond its bounds."""
    problems = proof.problems(bounds)
    if problems:
        raise EngineError(
            "the engine does not compute what the checkpoint does: " + "; ".join(problems),
            "differences within the target's bounds",
            "choose a higher precision, or loosen the target's bounds if the accuracy is enough",
        )


def _greedy(backend: Backend, prompt: Prompt, visual: Any) -> list[int]:
    cache = backend.new_cache()
    logits = backend.prefill(backend.embed(prompt, visual), cache)
    ids = [int(logits.argmax())]
    while len(ids) < NEW_TOKENS:
        ids.append(int(backend.extend(ids[-1:], cache)[-1].argmax()))
    return ids


def _taught(backend: Backend, prompt: Prompt, visual: Any, ids: list[int]) -> np.ndarray:
    """Logits [K, vocabulary] along a given answer, its first word by word, the rest at once."""
    cache = backend.new_cache()
    rows = [backend.prefill(backend.embed(prompt, visual), cache)[None]]
    rows.append(backend.extend(ids[:1], cache))
    rows.append(backend.extend(ids[1:], cache))
    return np.concatenate(rows)


def _difference(reference: np.ndarray, engine: np.ndarray) -> Difference:
    reference = reference.astype(np.float64)
    largest, deviation = float(np.abs(reference - engine).max()), float(reference.std())
    return Difference(largest, largest / deviation if deviation else np.inf if largest else 0.0)


def _divergence(reference: np.ndarray, engine: np.ndarray) -> float:
    ours, theirs = _log_softmax(reference), _log_softmax(engine)
    return float((np.exp(ours) * (ours - theirs)).sum(-1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float32)
