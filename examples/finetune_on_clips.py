"""Fine-tune a checkpoint on your own clips with LoRA, on the CPU, and write a merged checkpoint.

    python examples/finetune_on_clips.py clips.csv models/llava-st-tiny out/finetuned

A line of clips.csv is ``video,start,end,text``: the video (relative to the CSV) shows what the text
describes between these seconds. Each line becomes an ST-Align record of temporal video grounding.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from llava_st_ros import Task
from llava_st_ros.media.sources import VideoSource
from llava_st_ros.text.tasks import make_question
from llava_st_ros.training.finetune.stage import finetune

STAGE = """
mix: [{json: records.json}]
lora: {rank: 8, alpha: 16, dropout: 0.05}
rates: {adapters: 1.0e-3, tables: 1.0e-4}
batch: 2
epochs: 1
dtype: float32
"""


def make_record(folder: Path, video: str, start: str, end: str, text: str) -> dict[str, object]:
    """An ST-Align record; its times are fractions of the video."""
    seconds = max(frame.stamp for frame in VideoSource(folder / video)) / 1e9
    question = make_question(Task.TVG, text).text
    return {
        "video": str((folder / video).resolve()),
        "conversations": [
            {"from": "human", "value": f"<video>\n{question}"},
            {"from": "gpt", "value": "During the period {<TEMP-OUTPUT><TEMP-OUTPUT>}"},
        ],
        "variables": {
            "temporal_output_locations": [min(1.0, float(t) / seconds) for t in (start, end)]
        },
    }


def main(clips: Path, checkpoint: Path, out: Path) -> None:
    work = out.with_name(out.name + ".work")  # log, saved state, adapter
    work.mkdir(parents=True, exist_ok=True)
    with clips.open(newline="", encoding="utf-8") as file:
        records = [make_record(clips.parent, *row) for row in csv.reader(file)]
    (work / "records.json").write_text(json.dumps(records), encoding="utf-8")
    (work / "stage.yaml").write_text(STAGE, encoding="utf-8")
    finetune(work / "stage.yaml", checkpoint, data=work, work=work, out=out)
    print(f"wrote {out} and the adapter {work / 'adapter'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:])) if len(sys.argv) == 4 else sys.exit(__doc__)
