"""A training run with every kind of stage, small enough for a test."""

from __future__ import annotations

from typing import Any

from llava_st_ros.training.loop.time_budget import TimeBudget

CLIPS, FRAMES, SIZE = 3, 5, 48
QUESTIONS = {
    "kind": "conversations",
    "batch": 2,
    "lanes": 2,
    "lane_tokens": 60,
    "mix": {"REC": 1, "STVG": 1},
    "attention_weight": 1.0,
}
SETTINGS: dict[str, Any] = {
    "seed": 3,
    "data": {"clips": CLIPS},
    "model": {
        "image_size": SIZE,
        "patch_size": 6,
        "num_frames": FRAMES,
        "num_temporal_tokens": FRAMES,
        "num_spatial_tokens": 12,
        "text_vocabulary": 320,
        "compat": "paper",
        "vision": {
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_layers": 1,
            "num_attention_heads": 2,
        },
        "language": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
        },
        "packer": {"embed_dim": 16, "num_heads": 2, "spatial_region": 2, "temporal_region": 5},
    },
    "stages": {
        "dense_alignment": {"kind": "dense_alignment", "steps": 2, "rate": 0.01, "batch": 2},
        "pictures": {"steps": 2, "rate": 0.01, "matrix_rate": 0.01, "video": 0.0, **QUESTIONS},
        "packer_alignment": {"kind": "packer_alignment", "steps": 2, "rate": 0.01, "batch": 2},
        "clips": {"steps": 2, "rate": 0.01, "video": 1.0, "event_weight": 1.0, **QUESTIONS},
    },
}


class Moments(TimeBudget):
    """A budget that is used up when it was asked for the ``count``-th time."""

    def __init__(self, count: int) -> None:
        super().__init__(1.0)
        self.count = count

    @property
    def is_used_up(self) -> bool:
        self.count -= 1
        return self.count <= 0
