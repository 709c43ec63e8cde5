"""Three source folders, one package: see pyproject.toml for everything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = {
    "llava_st_ros": "llava_st_ros",
    "llava_st_ros.engine": "engine",
    "llava_st_ros.export": "export",
}


def shared_files() -> Iterator[tuple[str, list[str]]]:
    """Where colcon puts them too: <prefix>/share/llava_st_ros."""
    for top in ("config", "launch", "models", "systemd"):
        folders = [Path(top), *(path for path in sorted(Path(top).rglob("*")) if path.is_dir())]
        for folder in folders:
            files = [str(path) for path in sorted(folder.iterdir()) if path.is_file()]
            if files and folder.name != "__pycache__":
                yield f"share/llava_st_ros/{folder.as_posix()}", files


setup(
    packages=[
        *FOLDERS,
        *(
            f"{name}.{package}"
            for name, folder in FOLDERS.items()
            for package in find_packages(folder)
        ),
    ],
    package_dir=FOLDERS,
    package_data={
        "llava_st_ros": ["py.typed", "page_base.css"],
        "llava_st_ros.annotations": ["*.json"],
        "llava_st_ros.evaluation.annotate": ["page/*"],
        "llava_st_ros.evaluation.report_page": ["*.css", "*.html", "*.js"],
        "llava_st_ros.live_view": ["page/*"],
        "llava_st_ros.export": ["*.yaml", "*/*.yaml", "geometries/*.json", "plans/*.json"],
    },
    data_files=list(shared_files()),
)
