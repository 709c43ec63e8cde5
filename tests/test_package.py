"""The package's public API, its version, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import llava_st_ros
from support.paths import ROOT


def test_every_public_name_is_importable() -> None:
    public = {name: getattr(llava_st_ros, name) for name in llava_st_ros.__all__}
    assert all(value.__name__ == name for name, value in public.items())
    assert set(llava_st_ros.__all__) <= set(dir(llava_st_ros))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'llava_st_ros' has no attribute 'Grouder'"):
        _ = llava_st_ros.Grouder


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys, llava_st_ros\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'torch', 'yaml')"
        " or m.startswith('llava_st_ros.')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_package_xml_has_the_same_version() -> None:
    version = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    assert version == llava_st_ros.__version__


def test_type_hints_are_shipped() -> None:
    assert (Path(llava_st_ros.__file__).parent / "py.typed").is_file()
