"""``llava-st eval explain``: repeat one answer of a run alone, and compare it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_st_ros.evaluation.explain import Explanation
    from llava_st_ros.evaluation.ledger import LedgerEntry

HELP = "repeat one answer of an evaluation of bags, and compare it"
DIFFERENT = 1  # exit code: the answer is not that of the run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ledger", type=Path, metavar="RUN", help="folder of the run, or its ledger.jsonl"
    )
    parser.add_argument("id", metavar="ID", help="the answer's id in the ledger")
    parser.add_argument("--bag", type=Path, help="the bag, if it was moved")
    parser.add_argument("--model", type=Path, help="the model, if it was moved or to try another")
    parser.add_argument("--backend", help="runtime (default: that of the run)")
    parser.add_argument("--device", help="device (default: that of the run)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    from llava_st_ros.backends import load_backend, model_checksum
    from llava_st_ros.evaluation.explain import explain
    from llava_st_ros.evaluation.ledger import find_entry

    entry = find_entry(args.ledger, args.id)
    model = args.model or Path(entry.model.path)
    backend, tokenizer = load_backend(
        model,
        entry.model.backend if args.backend is None else args.backend,
        device=entry.model.device if args.device is None else args.device,
    )
    explanation = explain(
        entry,
        backend,
        tokenizer,
        bag=args.bag or Path(entry.bag),
        model_sha256=model_checksum(model),
    )
    if args.json:
        print(json.dumps(_values(entry, explanation), indent=1))
    else:
        print(_text(entry, explanation))
    return DIFFERENT if explanation.differences else 0


def _values(entry: LedgerEntry, explanation: Explanation) -> dict[str, Any]:
    grounding = explanation.grounding
    return {
        "id": entry.id,
        "prompt": explanation.prompt,
        "window": list(grounding.window),
        "token_ids": list(grounding.token_ids),
        "text": grounding.answer.text,
        "confidence": grounding.confidence,
        "match_probability": grounding.match_probability,
        "same": not explanation.differences,
        "differences": list(explanation.differences),
    }


def _text(entry: LedgerEntry, explanation: Explanation) -> str:
    from llava_st_ros.evaluation.explain import seconds_of

    grounding = explanation.grounding
    stamps = [stamp for stamp, _ in entry.frames]
    lines = [
        f"id      {entry.id}",
        f"query   {entry.query['text']!r} ({entry.query['task']})",
        f"prompt  {explanation.prompt!r}",
        f"frames  {len(stamps)}, from {stamps[0]} ns, at {seconds_of(stamps)} s",
        f"tokens  {' '.join(map(str, grounding.token_ids))}",
        f"answer  {grounding.answer.text!r}, confidence {grounding.confidence:.3f}",
    ]
    if grounding.match_probability is not None:
        lines.append(f"match   probability {grounding.match_probability:.3f}")
    lines += [f"differs {line}" for line in explanation.differences]
    lines += [] if explanation.differences else ["the answer is the same as in the run"]
    return "\n".join(lines)
