"""Golden clips: the simulator's output at the current SIMULATOR_VERSION, stored in the repository.

Ground truth and questions are stored as JSON, frames as thumbnails in one PNG (a row per clip, a
column per frame). To store them again after an intended change:

    scripts/with_ros python tests/support/simulator_golden.py
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from llava_st_ros.simulation.clip_store import ground_truth
from llava_st_ros.simulation.questions import Sample, clip_samples
from llava_st_ros.simulation.simulator import SimulatedClip, simulate_clip, split_seed
from llava_st_ros.simulation.version import SIMULATOR_VERSION

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "simulator"
COMMAND = "scripts/with_ros .venv/bin/python tests/support/simulator_golden.py"
# Together they have every kind of event, an occluder, distractors, motion blur, noise and JPEG.
CLIPS = (
    ("train", 0),
    ("train", 5),
    ("validation", 3),
    ("test", 8),
    ("unseen_objects", 0),
    ("unseen_table", 2),
    ("unseen_lens", 0),
)
NUM_FRAMES, SIZE, BLOCK = 10, 64, 4  # a thumbnail's pixel is the mean of BLOCK x BLOCK pixels
# OpenGL drivers rasterize and filter slightly differently. Measured over 144 clips at this size,
# Mesa 22.3.6 softpipe against llvmpipe (through EGL and OSMesa llvmpipe gives equal bytes):
# thumbnails differ by at most 21 levels of 255 in a value and 1.3 in a clip's mean. For comparison,
# a headlight brighter by 0.02 changes a clip's mean by 1.9, another texture seed by 24. 1 in 1,100
# box edges differ, each by one pixel, none of them in CLIPS: there, boxes are compared exactly.
MAX_DIFFERENCE, MAX_MEAN_DIFFERENCE = 24, 1.5


@dataclass(frozen=True)
class Golden:
    """Golden data of all ``CLIPS``.

    Attributes:
        version: The SIMULATOR_VERSION that the clips belong to.
        clips: Ground truth by clip name.
        questions: The questions about each clip, by clip name.
        thumbnails: uint8 [clips, frames, SIZE / BLOCK, SIZE / BLOCK, 3].
    """

    version: int
    clips: dict[str, Any]
    questions: dict[str, Any]
    thumbnails: np.ndarray


def render_golden() -> Golden:
    """Render the golden clips with the present simulator."""
    rendered = {
        f"{split} {index}": simulate_clip(
            split_seed(split, index), num_frames=NUM_FRAMES, size=SIZE
        )
        for split, index in CLIPS
    }
    return Golden(
        version=SIMULATOR_VERSION,
        clips={name: _as_json(ground_truth(clip)) for name, clip in rendered.items()},
        questions={name: _as_json(_questions(clip)) for name, clip in rendered.items()},
        thumbnails=np.stack([_thumbnails(clip.frames) for clip in rendered.values()]),
    )


def read_golden() -> Golden:
    """Read the stored golden clips."""
    truth = json.loads((FOLDER / "clips.json").read_text(encoding="utf-8"))
    questions = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))
    sheet = cv2.imread(str(FOLDER / "frames.png"), cv2.IMREAD_COLOR)
    assert sheet is not None
    side = SIZE // BLOCK
    grid = sheet[:, :, ::-1].reshape(len(CLIPS), side, NUM_FRAMES, side, 3)
    return Golden(truth["version"], truth["clips"], questions, grid.swapaxes(1, 2))


def write_golden(golden: Golden) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    truth = {"version": golden.version, "clips": golden.clips}
    _write_json(FOLDER / "clips.json", truth)
    _write_json(FOLDER / "questions.json", golden.questions)
    clips, frames, side = golden.thumbnails.shape[:3]
    sheet = golden.thumbnails.swapaxes(1, 2).reshape(clips * side, frames * side, 3)
    cv2.imwrite(str(FOLDER / "frames.png"), sheet[:, :, ::-1])


def clip_differences(stored: Golden, rendered: Golden) -> list[str]:
    """Describe how rendered clips differ from the stored ones: ground truth and frames."""
    found = [
        f"{name}: {field} differ"
        for name, truth in rendered.clips.items()
        for field in truth
        if truth[field] != stored.clips.get(name, {}).get(field)
    ]
    if stored.thumbnails.shape != rendered.thumbnails.shape:
        return [*found, f"frames of shape {rendered.thumbnails.shape}"]
    away = np.abs(rendered.thumbnails.astype(int) - stored.thumbnails)
    for name, clip in zip(rendered.clips, away):
        if clip.max() > MAX_DIFFERENCE or clip.mean() > MAX_MEAN_DIFFERENCE:
            found.append(
                f"{name}: frames differ by {clip.mean():.2f} on average (at most "
                f"{MAX_MEAN_DIFFERENCE}) and by {clip.max()} (at most {MAX_DIFFERENCE})"
            )
    return found


def _thumbnails(frames: np.ndarray) -> np.ndarray:
    side = SIZE // BLOCK
    blocks = frames.reshape(len(frames), side, BLOCK, side, BLOCK, 3)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def _questions(clip: SimulatedClip) -> list[dict[str, Any]]:
    return [_question(s) for s in clip_samples(clip, np.random.default_rng(clip.seed))]


def _question(sample: Sample) -> dict[str, Any]:
    answer = sample.answer
    texts = [
        answer.caption,
        *(text for _, text in answer.segments),
        *(p for p, _ in answer.phrases),
    ]
    return {
        "task": sample.task.value,
        "text": sample.text,
        "span": sample.span,
        "box": None if sample.box is None else asdict(sample.box),
        "frame": sample.frame,
        "answer span": answer.span,
        "answer texts": [text for text in texts if text is not None],
        "no match": answer.no_match,
    }


def _as_json(value: Any) -> Any:
    """``value`` as it is read back from JSON: lists for tuples, strings for enums."""
    return json.loads(json.dumps(value))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    golden = render_golden()
    if (FOLDER / "clips.json").exists():
        stored = read_golden()
        differences = clip_differences(stored, golden)
        if differences and stored.version == golden.version:
            print("\n".join(differences), file=sys.stderr)
            print(
                f"clips of version {stored.version} have changed: raise SIMULATOR_VERSION in "
                "llava_st_ros/simulation/version.py first",
                file=sys.stderr,
            )
            return 2
    write_golden(golden)
    print(f"wrote {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
