"""A damaged engine directory, or one whose manifest has a valid checksum and invalid values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import mutate_bytes, mutate_json
from fuzz.surface import Case, Surface, WrongAcceptanceError
from llava_st_ros.engine.manifest import (
    NAME,
    Manifest,
    check_files,
    describe_files,
    read_manifest,
)
from llava_st_ros.files.checksums import checksum_of


class Manifests(Surface):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._contents = {f"{name}.onnx": name.encode() * 40 for name in ("vision", "language")}
        self._write_files(self._contents)
        self._manifest = Manifest(
            backend="onnxruntime",
            target="cpu",
            precision="float32",
            compat="paper",
            checkpoint="0" * 64,
            graphs={"vision": "vision.onnx", "language": "language.onnx"},
            files=describe_files(folder),
            versions={"onnx": "1.20"},
            proof={"divergence": 0.01, "graphs": {"vision": 1e-6}},
        )
        self._manifest.write(folder)
        self._text = (folder / NAME).read_bytes()

    def _write_files(self, contents: dict[str, bytes]) -> None:
        for name, content in contents.items():
            (self.folder / name).write_bytes(content)

    def make(self, rng: np.random.Generator) -> Case:
        kind = int(rng.integers(3))
        if kind == 0:
            text, step = mutate_bytes(rng, self._text)
            return Case((text, self._contents, False), f"manifest, {step}")
        if kind == 1:
            name = sorted(self._contents)[int(rng.integers(2))]
            content, step = mutate_bytes(rng, self._contents[name])
            return Case((self._text, {**self._contents, name: content}, False), f"{name}, {step}")
        values = json.loads(self._text)
        del values["signature"]
        values, step = mutate_json(rng, values)
        if isinstance(values, dict):
            values["signature"] = checksum_of(values)
        text = json.dumps(values).encode()
        return Case((text, self._contents, True), f"signed manifest, {step}")

    def check(self, data: Any) -> None:
        text, contents, signed = data
        self._write_files(contents)
        (self.folder / NAME).write_bytes(text)
        manifest = read_manifest(self.folder)
        check_files(self.folder, manifest, hash_all=True)
        if not signed:
            if contents != self._contents or manifest != self._manifest:
                raise WrongAcceptanceError("a damaged engine directory")
            return
        names = [*manifest.files, *manifest.graphs.values()]
        if any(not isinstance(n, str) or Path(n).name != n for n in names):
            raise WrongAcceptanceError(f"names that are no file names: {names}")
        texts = (manifest.backend, manifest.target, manifest.precision, manifest.compat)
        if any(not isinstance(text, str) or not text for text in texts):
            raise WrongAcceptanceError(f"names that are no texts: {texts}")
        if not all(isinstance(v, dict) for v in (manifest.proof, manifest.machine)):
            raise WrongAcceptanceError("proof or machine is not an object")


SURFACE = Manifests
