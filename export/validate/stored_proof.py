"""The proof of an engine directory, as stored in its manifest, in readable lines."""

from __future__ import annotations

from llava_st_ros.engine.manifest import Manifest
from llava_st_ros.errors import ConfigError
from llava_st_ros.export.target import Bounds, read_target
from llava_st_ros.export.validate.proof import Proof


def bounds_of(manifest: Manifest) -> Bounds:
    """Return the bounds of an engine's target; a target unknown to this version has none."""
    try:
        return read_target(manifest.target).bounds(manifest.precision)
    except ConfigError:
        return Bounds()


def proof_lines(manifest: Manifest) -> list[str]:
    """Describe the stored proof.

    Raises:
        EngineError: The proof is of another version.
    """
    if not manifest.proof:
        return ["there is no proof in the manifest"]
    return Proof.from_dict(manifest.proof).summary_lines(bounds_of(manifest))
