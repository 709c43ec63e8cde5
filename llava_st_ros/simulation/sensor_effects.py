"""Camera effects such as exposure, noise and blur. They change brightness only, never positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from llava_st_ros.simulation.worlds import Variety, sample


@dataclass(frozen=True)
class SensorEffects:
    """The effects of one camera in one clip; the defaults change nothing.

    Attributes:
        exposure_time: In seconds.
        num_exposures: Number of renderings (odd) within the exposure time that are averaged.
        white_balance: Gains of red, green and blue.
        gain: Mean exposure gain.
        drift: Relative amplitude of the gain's oscillation.
        period: Period of the oscillation in seconds.
        phase: Phase of the oscillation in radians.
        vignette: Light lost in the corners, as a fraction.
        defocus: Standard deviation of the blur in image widths.
        noise: Standard deviation of the noise in a white pixel, as a fraction.
        jpeg_quality: 0 for no compression.
        noise_seed: Seed of the noise.
        gamma: Exponent of the camera's response.
        saturation: Factor of the colors' distance from gray.
    """

    exposure_time: float = 0.0
    num_exposures: int = 1
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gain: float = 1.0
    drift: float = 0.0
    period: float = 5.0
    phase: float = 0.0
    vignette: float = 0.0
    defocus: float = 0.0
    noise: float = 0.0
    jpeg_quality: int = 0
    noise_seed: int = 0
    gamma: float = 1.0
    saturation: float = 1.0

    @property
    def exposure_offsets(self) -> np.ndarray:
        """Times of the exposures relative to the stamp, in seconds; the middle one is 0."""
        if self.num_exposures == 1:
            return np.zeros(1)
        return np.linspace(-self.exposure_time / 2, self.exposure_time / 2, self.num_exposures)

    def apply(self, frames: np.ndarray, stamps: np.ndarray) -> np.ndarray:
        """Apply the effects to frames uint8 [F, S, S, 3], rendered at ``stamps`` (s)."""
        if self == SensorEffects(self.exposure_time, self.num_exposures):
            return frames
        rng = np.random.default_rng(self.noise_seed)
        swing = np.sin(2 * math.pi * stamps / self.period + self.phase)
        frame_gains = self.gain * (1 + self.drift * swing)
        white_balance = np.array(self.white_balance, dtype=np.float32)
        pixel_gains = self._vignette_gains(frames.shape[1])[:, :, None] * white_balance
        return np.stack(
            [
                self._apply_to_frame(f, pixel_gains * np.float32(g), rng)
                for f, g in zip(frames, frame_gains)
            ]
        )

    def _apply_to_frame(
        self, frame: np.ndarray, gains: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Apply the effects to uint8 [S, S, 3] with the gains [S, S, 3]."""
        if self.defocus:
            frame = cv2.GaussianBlur(frame, (0, 0), self.defocus * len(frame))
        values = frame * gains
        if self.gamma != 1.0 or self.saturation != 1.0:
            gray = values.mean(axis=2, keepdims=True)
            values = np.clip(gray + np.float32(self.saturation) * (values - gray), 0, 255)
            values = np.float32(255) * (values / np.float32(255)) ** np.float32(self.gamma)
        if self.noise:
            # Shot noise: the deviation grows with the square root of the light.
            deviation = self.noise * np.sqrt(255 * values + 500)
            values += deviation * rng.standard_normal(values.shape, dtype=np.float32)
        pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        if self.jpeg_quality:
            _, encoded = cv2.imencode(
                ".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality]
            )
            pixels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[:, :, ::-1]
        return pixels

    def _vignette_gains(self, size: int) -> np.ndarray:
        """Return gains [S, S]: 1 in the center and 1 - vignette in the corners."""
        center_offset = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        squares = center_offset**2
        return 1 - self.vignette * (squares[:, None] + squares[None]) / 2


def with_response(
    rng: np.random.Generator, effects: SensorEffects, variety: Variety
) -> SensorEffects:
    """Return the effects with another exposure, contrast and saturation."""
    return replace(
        effects,
        gain=sample(rng, variety.exposure),
        gamma=sample(rng, variety.gamma),
        saturation=float(rng.uniform(0.75, 1.2)),
        noise_seed=int(rng.integers(2**31)),
    )


def sample_sensor_effects(rng: np.random.Generator) -> SensorEffects:
    """Sample a camera's effects, each of which is often absent."""

    def sometimes(probability: float, low: float, high: float) -> float:
        strength = float(rng.uniform(low, high))
        return strength if rng.random() < probability else 0.0

    exposure_time = sometimes(0.45, 0.015, 0.06)
    red, green, blue = (float(v) for v in 1 + rng.uniform(-0.07, 0.07, 3) * (rng.random() < 0.6))
    return SensorEffects(
        exposure_time=exposure_time,
        num_exposures=1 if not exposure_time else 3 if exposure_time < 0.03 else 5,
        white_balance=(red, green, blue),
        gain=float(rng.uniform(0.8, 1.12)),
        drift=sometimes(0.4, 0.02, 0.12),
        period=float(rng.uniform(3, 9)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        vignette=sometimes(0.4, 0.1, 0.4),
        defocus=sometimes(0.35, 0.002, 0.006),
        noise=sometimes(0.5, 0.005, 0.03),
        jpeg_quality=int(rng.integers(35, 91)) if rng.random() < 0.5 else 0,
        noise_seed=int(rng.integers(2**31)),
    )
