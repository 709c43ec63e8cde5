"""The scoring conventions by name."""

from __future__ import annotations

from collections.abc import Mapping

from llava_st_ros.errors import ConfigError, shown
from llava_st_ros.evaluation.conventions.charades_sta import CharadesSta
from llava_st_ros.evaluation.conventions.frames_64 import Frames64
from llava_st_ros.evaluation.conventions.hc_stvg import HcStvg
from llava_st_ros.evaluation.conventions.llava_st import LlavaSt
from llava_st_ros.evaluation.conventions.ours import Ours
from llava_st_ros.evaluation.conventions.records import Convention
from llava_st_ros.evaluation.conventions.refcoco import RefCoco
from llava_st_ros.evaluation.conventions.tubedetr import TubeDetr

_ALL = (Ours(), HcStvg(), TubeDetr(), Frames64(), LlavaSt(), CharadesSta(), RefCoco())
CONVENTIONS: Mapping[str, Convention] = {convention.name: convention for convention in _ALL}
ALL, OWN = "all", "ours"


def conventions_named(name: str) -> tuple[Convention, ...]:
    """Return the conventions that a user names: "all", "ours" or one by its name, in any case.

    Raises:
        ConfigError: There is no such convention.

    >>> [convention.name for convention in conventions_named("tubedetr")]
    ['TubeDETR']
    >>> conventions_named("ours")[0].name
    'llava_st_ros'
    """
    by_name = {convention.name.lower(): (convention,) for convention in _ALL}
    found = {**by_name, ALL: _ALL, OWN: _ALL[:1]}.get(name.lower())
    if found is None:
        expected = ", ".join((ALL, OWN, *(convention.name for convention in _ALL[1:])))
        raise ConfigError(f"convention {shown(name)} is unknown; expected one of {expected}")
    return found
