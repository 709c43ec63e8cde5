"""Print how well a model distinguishes windows with the event that is meant from other windows.

scripts/with_ros python -m benchmarks.window_questions [--split validation] [--videos 24]
    [--windows 4] [--model DIR] [--threads 1] [--out FILE.json]

Windows of simulated videos (this needs the renderer) are asked the questions that training asks:
those with an answer, and those without a match by kind. For each kind the table has the mean
probability of an answer, and the AUROC of that probability against questions with an answer. Only
the first word of each answer is decoded.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.table import Table
from tqdm import tqdm

from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends import load_backend
from llava_st_ros.backends.base import Backend
from llava_st_ros.backends.default_model import default_model
from llava_st_ros.cli.outputs import print_tables
from llava_st_ros.decoding.generate import generate
from llava_st_ros.evaluation.metric_kinds import AurocMetric
from llava_st_ros.evaluation.results import Case
from llava_st_ros.simulation.questions import EVENT_TASKS, Sample
from llava_st_ros.simulation.simulator import split_seed
from llava_st_ros.simulation.streams import simulate_training_video
from llava_st_ros.simulation.window_questions import (
    NO_MATCH_KINDS,
    window_event_samples,
    window_no_match_samples,
    window_pairs,
)
from llava_st_ros.simulation.windows import VideoWindow, window_of
from llava_st_ros.streaming.view import VisualPrefix
from llava_st_ros.text.grammar import EVEN_ODDS, Grammar
from llava_st_ros.text.prompt import PromptBuilder
from llava_st_ros.text.tokenizer import Tokenizer
from llava_st_ros.training.tiny.windows import sample_window

ANSWERED = "with an answer"
PER_KIND = 3  # questions of each kind about a window
Probabilities = dict[str, list[float]]  # of an answer, by kind of question


def questions(window: VideoWindow, rng: np.random.Generator) -> list[tuple[str, Sample]]:
    """Return the questions about a window, each with its kind."""
    found = [(ANSWERED, s) for s in window_event_samples(window, rng) if s.task in EVENT_TASKS]
    suffix = "" if window.clip.events else ", empty window"
    for kind in NO_MATCH_KINDS:
        samples = window_no_match_samples(window, PER_KIND, {kind: 1.0}, rng)
        found += [(f"{kind}{suffix}", sample) for sample in samples]
    for answered, no_match in window_pairs(window, rng):
        found += [(ANSWERED, answered), ("pair", no_match)]
    return found


def measure(
    backend: Backend, tokenizer: Tokenizer, split: str, videos: int, windows: int
) -> Probabilities:
    """Return the probability that something matches, for the questions of each kind."""
    model = backend.describe().model
    prompts = PromptBuilder(tokenizer, model)
    found: Probabilities = defaultdict(list)
    for index in tqdm(range(videos), unit="video"):
        seed = split_seed(split, index)
        video = simulate_training_video(seed, size=model.image_size)
        features = [backend.encode_frame(frame) for frame in video.frames]
        for number in range(windows):
            rng = np.random.default_rng([seed, number])
            frames = sample_window(seed, video.stamps, model.num_frames, rng)
            tokens = backend.pack([features[i] for i in frames], range(model.num_frames))
            prefix = VisualPrefix(backend, tokens)
            for kind, sample in questions(window_of(video, frames), rng):
                question = sample.question(rng)
                embeddings, cache = prefix.resume(prompts.build(question))
                grammar = Grammar.for_question(question, tokenizer, model, EVEN_ODDS)
                generation = generate(
                    backend, embeddings, tokenizer, cache=cache, grammar=grammar, max_new_tokens=1
                )
                assert generation.match_probability is not None
                found[kind].append(generation.match_probability)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="validation")
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--windows", type=int, default=4, help="of each video")
    parser.add_argument("--model", type=Path, help="checkpoint or engine directory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures as JSON")
    options = parser.parse_args()

    folder = options.model or default_model()
    backend, tokenizer = load_backend(folder, threads=options.threads)
    found = measure(backend, tokenizer, options.split, options.videos, options.windows)
    answered = found.pop(ANSWERED)
    found["all without a match"] = [p for of_kind in found.values() for p in of_kind]
    samples = {kind: tuple(values) for kind, values in [(ANSWERED, answered), *found.items()]}
    run = Case("", "", "", "", samples=samples)
    figures = {
        kind: {
            "questions": len(values),
            "mean P(answer)": float(np.mean(values)),
            "AUROC": AurocMetric("AUROC", ANSWERED, negatives=kind).value([run]),
        }
        for kind, values in found.items()
    }
    report = {
        "model": folder.name,
        "split": options.split,
        "windows": options.videos * options.windows,
        ANSWERED: {"questions": len(answered), "mean P(answer)": float(np.mean(answered))},
        "without a match": figures,
    }
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")
    title = f"{report['windows']} windows of {options.split}, {folder.name}"
    table = Table("questions", "n", "mean P(answer)", "AUROC", title=title)
    table.add_row(ANSWERED, str(len(answered)), f"{np.mean(answered):.3f}", "")
    for kind, values in figures.items():
        table.add_row(
            kind,
            str(values["questions"]),
            f"{values['mean P(answer)']:.3f}",
            f"{values['AUROC']:.3f}",
        )
    print_tables(table)


if __name__ == "__main__":
    main()
