"""The proof in a manifest: differences between an engine and the torch reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import EngineError, one_line
from llava_st_ros.export.target import Bounds
from llava_st_ros.export.validate.accuracy import Accuracy
from llava_st_ros.export.validate.agreement import Agreement
from llava_st_ros.export.validate.reference_inputs import reference_frames, reference_prompts
from llava_st_ros.records import Prompt

NEW_TOKENS = 24  # length of each greedy answer


@dataclass(frozen=True)
class Difference:
    """Difference of one graph's outputs.

    Attributes:
        largest: Largest absolute difference.
        relative: ``largest`` over the standard deviation of the reference's outputs.
    """

    largest: float
    relative: float


@dataclass(frozen=True)
class Measure:
    """A number of the proof with its bound; NaN exceeds every bound.

    Attributes:
        name: What was measured, readable.
        value: The number.
        bound: The largest accepted number, or the smallest if ``is_minimum``.
        is_minimum: Whether the bound is a minimum.
        format: How the numbers are written.
    """

    name: str
    value: float
    bound: float
    is_minimum: bool = False
    format: str = ".2e"

    @property
    def is_within(self) -> bool:
        return self.value >= self.bound if self.is_minimum else self.value <= self.bound

    def __str__(self) -> str:
        return f"{self.name}: {self.value:{self.format}} ({self._accepted()})"

    def _accepted(self) -> str:
        if self.bound in ((0.0,) if self.is_minimum else (np.inf,)):
            return "any is accepted"
        number = f"{self.bound:{self.format}}" if "%" in self.format else f"{self.bound:g}"
        return f"accepted: {'at least' if self.is_minimum else 'at most'} {number}"


def _answer_measures(answers: Agreement, bounds: Bounds) -> list[Measure]:
    """Return the numbers of the answers with their bounds."""
    return [
        Measure(
            f"median error of {answers.coordinates} coordinates, bins",
            answers.median_bins,
            bounds.median_bins,
            format=".1f",
        ),
        Measure(
            "99th percentile of the coordinates' errors, bins",
            answers.p99_bins,
            bounds.p99_bins,
            format=".1f",
        ),
        Measure(
            f"IoU of the tubes of {answers.questions} answers with the reference's",
            answers.tube_iou,
            bounds.tube_iou,
            True,
            ".3f",
        ),
        Measure("equal answers", answers.equal, bounds.equal_answers, True, ".0%"),
    ]


@dataclass(frozen=True)
class Proof:
    """Comparison of an engine with the reference on the reference inputs.

    Attributes:
        graphs: Difference of each graph, in data-flow order; each graph gets the outputs of the
            graphs before it.
        divergence: Mean Kullback-Leibler divergence, in nats, of the engine's token distribution
            from the reference's, both teacher-forced with the reference's continuations of random
            prompts.
        equal_ids: Share of greedy continuations of random prompts whose token ids are all equal.
        answers: Agreement of the answers on the reference clips; None without a tokenizer.
        simulated: Accuracy on simulated clips; None if not measured.
    """

    graphs: Mapping[str, Difference]
    divergence: float
    equal_ids: float
    answers: Agreement | None = None
    simulated: Accuracy | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Proof:
        """Read the proof of a manifest; versions without some of the parts wrote earlier ones.

        Raises:
            EngineError: The values are not a proof of this format.
        """
        try:
            answers, simulated = values.get("answers"), values.get("simulated")
            return cls(
                {name: Difference(**value) for name, value in values["graphs"].items()},
                float(values["divergence"]),
                float(values["equal_ids"]),
                None if answers is None else Agreement(**answers),
                None if simulated is None else Accuracy(**simulated),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"the proof in the manifest is of another version: {one_line(error)}",
                "export again",
            ) from error

    def measures(self, bounds: Bounds) -> list[Measure]:
        """Return every number with its bound, in data-flow order."""
        found = [
            Measure(
                f"{name} graph, largest difference in standard deviations of its outputs",
                difference.relative,
                bounds.relative,
            )
            for name, difference in self.graphs.items()
        ]
        found += [
            Measure(
                "divergence of the token distributions, nats", self.divergence, bounds.divergence
            ),
            Measure(
                "equal continuations of random prompts",
                self.equal_ids,
                bounds.equal_ids,
                True,
                ".0%",
            ),
        ]
        if self.answers is not None:
            found += _answer_measures(self.answers, bounds)
        if (simulated := self.simulated) is not None:
            found.append(
                Measure(
                    f"loss of mean vIoU on {simulated.clips} simulated clips "
                    f"({simulated.engine:.3f}, reference {simulated.reference:.3f})",
                    simulated.loss,
                    bounds.viou_loss,
                    format=".3f",
                )
            )
        return found

    def violations(self, bounds: Bounds) -> list[str]:
        """Describe each measure that exceeds the bounds, in data-flow order. NaN exceeds any."""
        return [str(measure) for measure in self.measures(bounds) if not measure.is_within]

    def summary_lines(self, bounds: Bounds) -> list[str]:
        """Describe the proof in a few lines of text."""
        lines = [str(measure) for measure in self.measures(bounds)]
        if self.answers is None:
            lines.append("answers: not compared (no tokenizer, or exported by an earlier version)")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Convert to values that JSON can represent."""
        return asdict(self)


@dataclass(frozen=True)
class BackendOutputs:
    """What a backend computes from the reference inputs.

    Attributes:
        graphs: Outputs by graph; the language graph's are teacher-forced logits
            [K, vocabulary].
        answers: Token ids of the backend's own greedy answers.
    """

    graphs: dict[str, np.ndarray]
    answers: list[list[int]]


def run_reference_inputs(
    backend: Backend, teacher_forced: list[list[int]] | None = None
) -> BackendOutputs:
    """Run a backend on the reference inputs.

    The result holds no reference to the backend, so that the next one can use its memory.

    Args:
        backend: The backend to run.
        teacher_forced: Answers whose tokens are fed to the language graph; None: the backend's
            own.
    """
    config = backend.describe().model
    outputs: dict[str, np.ndarray] = {}
    features = [backend.encode_frame(frame) for frame in reference_frames(config)]
    outputs["vision"] = np.stack([_array(frame) for frame in features])
    image = backend.image_tokens(features[0])
    outputs["image"] = _array(image)
    video = backend.pack(features, range(len(features)))
    outputs["packer"] = np.concatenate((_array(video.fast), _array(video.slow)))
    prompts = list(zip(reference_prompts(config), (video, image)))
    answers = [_greedy(backend, prompt, visual) for prompt, visual in prompts]
    outputs["language"] = np.concatenate(
        [
            _teacher_forced(backend, prompt, visual, ids)
            for (prompt, visual), ids in zip(prompts, teacher_forced or answers)
        ]
    )
    return BackendOutputs(outputs, answers)


def compare_outputs(reference: BackendOutputs, engine: BackendOutputs) -> Proof:
    """Compare an engine, teacher-forced with the reference's answers, with the reference."""
    graphs = {
        name: _difference(output, engine.graphs[name]) for name, output in reference.graphs.items()
    }
    divergence = _divergence(reference.graphs["language"], engine.graphs["language"])
    equal = [expected == actual for expected, actual in zip(reference.answers, engine.answers)]
    return Proof(graphs, divergence, float(np.mean(equal)))


def check_bounds(
    proof: Proof, bounds: Bounds, divergences: Sequence[str] = (), kept: str = "nothing was written"
) -> None:
    """Raise EngineError if the proof exceeds its bounds.

    Args:
        proof: The proof to check.
        bounds: Bounds of the target's precision.
        divergences: Descriptions of the first divergent nodes, added to the message.
        kept: What became of the engine directory, added to the message.
    """
    violations = proof.violations(bounds)
    if violations:
        raise EngineError(
            "the engine differs from its checkpoint by more than the target accepts: "
            + "; ".join((*violations, *divergences)),
            f"{kept}; choose a higher precision, calibrate on footage like "
            "the robot's (int8), or widen the target's bounds if the accuracy is enough",
        )


def _greedy(backend: Backend, prompt: Prompt, visual: Any) -> list[int]:
    cache = backend.new_cache()
    logits = backend.prefill(backend.embed(prompt, visual), cache)
    ids = [int(logits.argmax())]
    while len(ids) < NEW_TOKENS:
        ids.append(int(backend.extend(ids[-1:], cache)[-1].argmax()))
    return ids


def _teacher_forced(backend: Backend, prompt: Prompt, visual: Any, ids: list[int]) -> np.ndarray:
    """Logits [K, vocabulary] along an answer: its first token alone, then the rest in one call."""
    cache = backend.new_cache()
    rows = [backend.prefill(backend.embed(prompt, visual), cache)[None]]
    rows.append(backend.extend(ids[:1], cache))
    rows.append(backend.extend(ids[1:], cache))
    return np.concatenate(rows)


def _difference(reference: np.ndarray, engine: np.ndarray) -> Difference:
    # Row by row: the features of a window of the published model take a gigabyte.
    mean = reference.mean(dtype=np.float64)
    largest = float(np.max([np.abs(a - b).max() for a, b in zip(reference, engine)]))
    squares = [np.square(row - mean).mean(dtype=np.float64) for row in reference]
    deviation = float(np.sqrt(np.mean(squares)))
    return Difference(largest, largest / deviation if deviation else np.inf if largest else 0.0)


def _divergence(reference: np.ndarray, engine: np.ndarray) -> float:
    expected, actual = _log_softmax(reference), _log_softmax(engine)
    return float((np.exp(expected) * (expected - actual)).sum(-1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=np.float32)
