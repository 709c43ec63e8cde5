"""The version of the simulated clips, part of the key under which rendered clips are cached."""

from __future__ import annotations

# Raise it with every change of what simulate_clip returns for a seed: frames, boxes, objects,
# events or stamps. tests/simulation/test_golden_clips.py fails when that was forgotten.
SIMULATOR_VERSION = 1
