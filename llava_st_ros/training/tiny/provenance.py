"""What a work folder is made from, recorded so that it is not continued with something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from llava_st_ros.atomic_files import write_text
from llava_st_ros.errors import ConfigError
from llava_st_ros.files.json_files import read_json
from llava_st_ros.simulation.clip_store import ClipStore

PROVENANCE_FILE = "made_from.json"
SCRIPTS = "_scripts"  # after the name of the clips
# Clips whose objects and events may differ after they were rendered on another machine: a renderer
# decides which objects are visible, and simulations that do not show their script are repeated.
MAX_OTHER_SCRIPTS = 0.05


def clips_provenance(name: str, store: ClipStore | None) -> dict[str, Any]:
    """Return the record of a store: the digest of its ground truth and its clips' scripts."""
    if store is None:
        return {name: None}
    return {name: store.digest, name + SCRIPTS: " ".join(store.scripts)}


def claim_work_folder(work: Path, provenance: Mapping[str, Any], accelerator: Accelerator) -> None:
    """Record what a work folder is made from, or compare it with the record there.

    Clips that were rendered again by another renderer differ in a few edges of boxes. They are
    accepted, with a message, if their objects and events are the same.

    Raises:
        ConfigError: They differ, so the folder's weights do not fit.
    """
    path = work / PROVENANCE_FILE
    if accelerator.is_main_process and not path.exists():
        write_text(path, json.dumps(provenance, indent=1) + "\n")
    accelerator.wait_for_everyone()
    recorded = read_json(path, ConfigError, "use another work folder")
    changed = []
    for name, value in provenance.items():
        if name.endswith(SCRIPTS) or recorded.get(name) == value:
            continue
        others = _other_scripts(recorded.get(name + SCRIPTS), provenance.get(name + SCRIPTS))
        if others is None:
            changed.append(name)
        else:
            accelerator.print(
                f"{name} were rendered again: boxes differ, and in {others} of them the objects "
                "or events; batches are those of the new ones"
            )
    if changed:
        raise ConfigError(
            f"{work} was started with other settings ({', '.join(changed)})",
            "restore them, or use another work folder",
        )


def _other_scripts(recorded: object, current: object) -> int | None:
    """The number of clips with another script; None if they are other clips altogether."""
    if not isinstance(recorded, str) or not isinstance(current, str):
        return None  # no clips, or recorded before scripts were
    before, now = recorded.split(), current.split()
    others = sum(a != b for a, b in zip(before, now))
    if len(before) != len(now) or others > MAX_OTHER_SCRIPTS * len(now):
        return None
    return others
