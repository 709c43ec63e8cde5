"""Repeats one answer of a run alone, from its entry in the ledger, and compares it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from llava_st_ros.backends.base import Backend
from llava_st_ros.errors import BackendError, DataError, FrameError
from llava_st_ros.evaluation.frame_hashes import frame_hash
from llava_st_ros.evaluation.ledger import LedgerEntry
from llava_st_ros.grounder import Grounder
from llava_st_ros.media.bag_frames import BagFrames
from llava_st_ros.media.bags import Bag
from llava_st_ros.records import NANOSECONDS, Frame, Grounding
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tasks import question_from_query
from llava_st_ros.text.tokenizer import Tokenizer

ALL_BYTES = 2**62  # the frames of one window are in memory together
MAX_LISTED = 3


@dataclass(frozen=True)
class Explanation:
    """An answer that was repeated.

    Attributes:
        prompt: The prompt in words, with repeated tokens counted.
        grounding: The new answer.
        differences: What is not as in the ledger, one line each; none if the answer is the same.
    """

    prompt: str
    grounding: Grounding
    differences: tuple[str, ...]


def explain(
    entry: LedgerEntry,
    backend: Backend,
    tokenizer: Tokenizer,
    *,
    bag: Path,
    model_sha256: str,
) -> Explanation:
    """Read the frames of an answer again, repeat it alone and compare it.

    Args:
        entry: The answer.
        backend: The model.
        tokenizer: Its tokenizer.
        bag: The bag.
        model_sha256: The model's checksum.

    Raises:
        DataError: The bag cannot be read, or lacks a frame of the window.
        BackendError: The evaluation fails.
    """
    differences = []
    if model_sha256 != entry.model.sha256:
        differences.append(f"model: SHA-256 is {model_sha256}; the run had {entry.model.sha256}")
    frames = _read_frames(entry, bag)
    changed = [
        stamp
        for frame, (stamp, expected) in zip(frames, entry.frames)
        if frame_hash(frame.image) != expected
    ]
    if changed:
        listed = ", ".join(map(str, changed[:MAX_LISTED])) + ", ..." * (len(changed) > MAX_LISTED)
        differences.append(
            f"frames: {len(changed)} of {len(frames)} have other pixels than in the run: {listed}"
        )
    grounding = _answer(entry, frames, backend, tokenizer)
    if grounding.window != entry.window:
        differences.append(
            f"window: the model saw {len(set(grounding.window))} frames in other slots"
        )
    differences += _token_differences(entry, grounding)
    prompt = PromptBuilder(tokenizer, backend.describe().model).build(
        question_from_query(entry.make_query())
    )
    text = _words([int(token) for token in prompt.token_ids], tokenizer)
    return Explanation(text, grounding, tuple(differences))


def _read_frames(entry: LedgerEntry, path: Path) -> list[Frame]:
    bag = BagFrames(Bag(path), entry.topic or None)
    bag.read_index()
    numbers = {stamp: number for number, stamp in enumerate(bag.stamps)}
    if missing := [stamp for stamp, _ in entry.frames if stamp not in numbers]:
        raise DataError(
            f"{path} has no frame with the stamp {missing[0]}: {len(missing)} of "
            f"{len(entry.frames)} frames are missing",
            "name the bag of the run with --bag",
        )
    camera = bag.topic.name.strip("/")
    frames = []
    for stamp, _ in entry.frames:
        try:
            frames.append(Frame(bag.image(numbers[stamp]), stamp, camera, camera))
        except FrameError as error:
            raise DataError(f"{path}: the frame with the stamp {stamp}: {error}") from error
    return frames


def _answer(
    entry: LedgerEntry, frames: Sequence[Frame], backend: Backend, tokenizer: Tokenizer
) -> Grounding:
    config = entry.make_config()
    stream = replace(config.stream, buffer_bytes=ALL_BYTES, buffer_frames=len(frames) + 1)
    grounder = Grounder(backend, tokenizer, replace(config, stream=stream))
    grounder.add_query(replace(entry.make_query(), cameras=()))
    for frame in frames:
        grounder.push(frame)
    tick = grounder.finish()
    for failure in tick.failures:
        raise BackendError(f"the evaluation of {entry.id} failed: {failure.error}")
    return tick.groundings[0]


def _token_differences(entry: LedgerEntry, grounding: Grounding) -> list[str]:
    old, new = entry.token_ids, grounding.token_ids
    if new == entry.token_ids:
        return []
    shared = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    return [
        f"tokens: {len(new)} instead of {len(old)}, the first {shared} alike",
        f"answer: {grounding.answer.text!r} instead of {entry.text!r}",
    ]


def _words(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return the text of token ids; a token that is repeated is written once, with its count."""
    words: list[str] = []
    run: list[int] = []
    for token, group in groupby(ids):
        count = len(list(group))
        if count <= MAX_LISTED:
            run += [token] * count
            continue
        words += [tokenizer.decode(run), f"{tokenizer.decode([token])} x {count} "]
        run = []
    return "".join([*words, tokenizer.decode(run)])


def seconds_of(stamps: Sequence[int]) -> str:
    """Return stamps (ns) in seconds after the first one.

    >>> seconds_of([1_000_000_000, 1_250_000_000])
    '0.000, 0.250'
    """
    return ", ".join(f"{(stamp - stamps[0]) / NANOSECONDS:.3f}" for stamp in stamps)
