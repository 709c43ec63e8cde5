"""The version of the simulated clips, part of the key under which rendered clips are cached."""

from __future__ import annotations

# Increment on every change of what simulate_clip returns for a seed: frames, boxes, objects,
# events or stamps. tests/simulation/test_golden_clips.py fails otherwise.
SIMULATOR_VERSION = 2
