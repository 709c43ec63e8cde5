"""What a real camera adds to a picture: all in brightness, so that boxes stay where they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class SensorEffects:
    """The faults of one camera in one clip; the defaults leave pictures as they are.

    ``shutter`` is the time of exposure in seconds, in which ``exposures`` (odd) pictures are
    averaged. ``balance`` are the gains of red, green and blue; the exposure swings by ``drift``
    around ``gain`` once in ``period`` seconds; ``vignette`` is the light lost in the corners and
    ``noise`` the standard deviation in a white pixel, both as shares; ``defocus`` is the standard
    deviation of the blur in picture widths; ``jpeg`` the quality, 0 for none.
    """

    shutter: float = 0.0
    exposures: int = 1
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gain: float = 1.0
    drift: float = 0.0
    period: float = 5.0
    phase: float = 0.0
    vignette: float = 0.0
    defocus: float = 0.0
    noise: float = 0.0
    jpeg: int = 0
    seed: int = 0  # of the noise

    @property
    def offsets(self) -> np.ndarray:
        """Of the sub-exposures from a picture's stamp, s, [exposures]; the middle one is 0."""
        half = self.shutter / 2
        return np.linspace(-half, half, self.exposures) if self.exposures > 1 else np.zeros(1)

    def apply(self, frames: np.ndarray, stamps: np.ndarray) -> np.ndarray:
        """Frames uint8 [F, S, S, 3] taken at ``stamps`` (s) as this camera gives them."""
        if self == SensorEffects(self.shutter, self.exposures):
            return frames
        rng = np.random.default_rng(self.seed)
        swing = np.sin(2 * math.pi * stamps / self.period + self.phase)
        gains = self.gain * (1 + self.drift * swing)
        fall = self._fall(frames.shape[1])[:, :, None] * np.array(self.balance, dtype=np.float32)
        return np.stack(
            [self._picture(f, fall * np.float32(g), rng) for f, g in zip(frames, gains)]
        )

    def _picture(
        self, frame: np.ndarray, light: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """One frame, uint8 [S, S, 3], under the gains ``light`` [S, S, 3]."""
        if self.defocus:
            frame = cv2.GaussianBlur(frame, (0, 0), self.defocus * len(frame))
        values = frame * light
        if self.noise:
            # Photons come at random: the deviation grows with the root of the light.
            deviation = self.noise * np.sqrt(255 * values + 500)
            values += deviation * rng.standard_normal(values.shape, dtype=np.float32)
        pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        if self.jpeg:
            _, coded = cv2.imencode(
                ".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.jpeg]
            )
            pixels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[:, :, ::-1]
        return pixels

    def _fall(self, size: int) -> np.ndarray:
        """How much light is left: 1 in the middle, 1 - vignette in the corners."""
        place = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        return 1 - self.vignette * (place[:, None] ** 2 + place[None] ** 2) / 2


def sample_sensor_effects(rng: np.random.Generator) -> SensorEffects:
    """A camera with faults, each of them often absent."""

    def sometimes(share: float, low: float, high: float) -> float:
        strength = float(rng.uniform(low, high))
        return strength if rng.random() < share else 0.0

    shutter = sometimes(0.45, 0.015, 0.06)
    red, green, blue = (float(v) for v in 1 + rng.uniform(-0.07, 0.07, 3) * (rng.random() < 0.6))
    return SensorEffects(
        shutter=shutter,
        exposures=1 if not shutter else 3 if shutter < 0.03 else 5,
        balance=(red, green, blue),
        gain=float(rng.uniform(0.8, 1.12)),
        drift=sometimes(0.4, 0.02, 0.12),
        period=float(rng.uniform(3, 9)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        vignette=sometimes(0.4, 0.1, 0.4),
        defocus=sometimes(0.35, 0.002, 0.006),
        noise=sometimes(0.5, 0.005, 0.03),
        jpeg=int(rng.integers(35, 91)) if rng.random() < 0.5 else 0,
        seed=int(rng.integers(2**31)),
    )
