"""What stands on the table and how the camera sees it: sampling, MuJoCo XML and projection.

Lengths in metres, angles in degrees, z = 0 is the table's top, the camera looks roughly along +y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.06, 0.06),
    "green": (0.08, 0.55, 0.12),
    "blue": (0.08, 0.18, 0.85),
    "yellow": (0.95, 0.85, 0.08),
    "purple": (0.42, 0.10, 0.58),
    "orange": (1.00, 0.42, 0.02),
    "cyan": (0.10, 0.80, 0.85),
    "pink": (1.00, 0.50, 0.70),
}
SHAPES = ("ball", "box", "cylinder", "capsule")
SIZES: dict[str, tuple[float, float]] = {"small": (0.044, 0.050), "large": (0.070, 0.077)}
TABLES = (
    (0.62, 0.47, 0.33),
    (0.45, 0.32, 0.22),
    (0.75, 0.70, 0.62),
    (0.55, 0.55, 0.55),
    (0.30, 0.30, 0.32),
    (0.80, 0.80, 0.80),
    (0.40, 0.45, 0.48),
    (0.52, 0.50, 0.42),
)
FOVY = 40.0
TIMESTEP = 0.004  # s
GRAVITY = 9.81
_DENSITY = 300.0  # kg/m^3


@dataclass(frozen=True)
class SimulatedObject:
    """One thing on the table; ``scale`` is its half size in metres."""

    color: str
    shape: str
    size: str
    scale: float

    @property
    def name(self) -> str:
        """Unique in a clip, for example "red ball"."""
        return f"{self.color} {self.shape}"

    @property
    def full_name(self) -> str:
        return f"{self.size} {self.name}"

    @property
    def geom_size(self) -> tuple[float, ...]:
        """As MuJoCo's ``size`` of this shape."""
        s = self.scale
        if self.shape == "box":
            return (0.9 * s, 0.9 * s, 0.9 * s)
        if self.shape == "cylinder":
            return (0.8 * s, 1.0 * s)
        if self.shape == "capsule":
            return (0.62 * s, 0.75 * s)
        return (s,)

    @property
    def height(self) -> float:
        """Of the centre above the table at rest."""
        return {"box": 0.9, "cylinder": 1.0, "capsule": 0.62, "ball": 1.0}[self.shape] * self.scale

    @property
    def reach(self) -> float:
        """Radius of the upright cylinder that holds it, however it is turned on the table."""
        return {"box": 1.27, "cylinder": 0.85, "capsule": 1.37, "ball": 1.0}[
            self.shape
        ] * self.scale


@dataclass(frozen=True)
class CameraPose:
    """MuJoCo's free camera at one moment."""

    lookat: np.ndarray
    distance: float
    azimuth: float
    elevation: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] points -> [N, 3]: u, v in [0, 1] of the image, and depth in metres."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        forward = np.array(
            [
                math.cos(elevation) * math.cos(azimuth),
                math.cos(elevation) * math.sin(azimuth),
                math.sin(elevation),
            ]
        )
        right = np.array([math.sin(azimuth), -math.cos(azimuth), 0.0])
        up = np.cross(right, forward)
        relative = np.atleast_2d(points) - (self.lookat - self.distance * forward)
        depth = relative @ forward
        focal = 0.5 / math.tan(math.radians(FOVY) / 2)
        u = 0.5 + focal * (relative @ right) / depth
        v = 0.5 - focal * (relative @ up) / depth
        return np.stack([u, v, depth], axis=1)

    def scale_at(self, depth: float) -> float:
        """Image widths per metre at that depth."""
        return 0.5 / (math.tan(math.radians(FOVY) / 2) * depth)


@dataclass(frozen=True)
class CameraPath:
    """A pose that sways smoothly; a static camera has zero amplitudes. ``period`` in seconds."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    sway: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # x, distance, azimuth, elev.
    period: float = 10.0
    phase: float = 0.0

    @property
    def moving(self) -> bool:
        return any(self.sway)

    def at(self, time: float) -> CameraPose:
        swing = math.sin(2 * math.pi * time / self.period + self.phase)
        other = math.sin(2 * math.pi * time / (1.7 * self.period) + 2.0 * self.phase)
        x, distance, azimuth, elevation = self.sway
        return CameraPose(
            np.array(self.lookat) + np.array([x * other, 0.0, 0.0]),
            self.distance * (1 + distance * other),
            self.azimuth + azimuth * swing,
            self.elevation + elevation * other,
        )


@dataclass(frozen=True)
class Scene:
    """Everything about a clip that does not change while it runs."""

    objects: tuple[SimulatedObject, ...]
    camera: CameraPath
    table: tuple[float, float, float]
    texture: str  # MuJoCo's builtin texture of the table
    texture_contrast: float
    table_edge: float  # y of the far edge, metres
    floor: tuple[float, float, float]
    light_direction: tuple[float, float, float]
    light: float
    ambient: float
    gloss: float


def sample_scene(rng: np.random.Generator, num_objects: int) -> Scene:
    """A scene with ``num_objects`` objects of which no two share colour and shape."""
    objects: list[SimulatedObject] = []
    while len(objects) < num_objects:
        size = str(rng.choice(list(SIZES)))
        item = SimulatedObject(
            str(rng.choice(list(COLORS))),
            str(rng.choice(SHAPES)),
            size,
            float(rng.uniform(*SIZES[size])),
        )
        if item.name not in {other.name for other in objects}:
            objects.append(item)
    sway = (0.0, 0.0, 0.0, 0.0)
    if rng.random() < 0.5:
        signs = rng.uniform(0.3, 1.0, 4) * rng.choice([-1.0, 1.0], 4)
        sway = tuple(float(v) for v in signs * np.array([0.025, 0.04, 6.0, 3.0]))  # type: ignore[assignment]
    camera = CameraPath(
        lookat=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.03)), 0.05),
        distance=float(rng.uniform(0.86, 1.0)),
        azimuth=float(rng.uniform(70, 110)),
        elevation=float(rng.uniform(-52, -28)),
        sway=sway,
        period=float(rng.uniform(8, 14)),
        phase=float(rng.uniform(0, 2 * math.pi)),
    )
    table = np.clip(np.array(TABLES[rng.integers(len(TABLES))]) + rng.uniform(-0.06, 0.06), 0, 1)
    angle = rng.uniform(0, 2 * math.pi)
    tilt = rng.uniform(0.2, 0.9)
    return Scene(
        objects=tuple(objects),
        camera=camera,
        table=_rgb(table),
        texture=str(rng.choice(["flat", "checker", "gradient"])),
        texture_contrast=float(rng.uniform(0.03, 0.12)),
        table_edge=float(rng.uniform(0.42, 0.9)),
        floor=_rgb(np.full(3, rng.uniform(0.15, 0.6)) + rng.uniform(-0.05, 0.05, 3)),
        light_direction=(tilt * math.cos(angle), tilt * math.sin(angle), -1.0),
        light=float(rng.uniform(0.3, 0.5)),
        ambient=float(rng.uniform(0.35, 0.5)),
        gloss=float(rng.uniform(0.0, 0.4)),
    )


def scene_xml(scene: Scene, size: int) -> str:
    """MuJoCo XML; object i is body and geom ``object<i>`` with a free joint.

    Every scene has the same number and sizes of textures, so that one render context serves all.
    """
    table, contrast = np.array(scene.table), scene.texture_contrast
    first, second = np.clip(table - contrast, 0, 1), np.clip(table + contrast, 0, 1)
    half_depth = (scene.table_edge + 1.6) / 2
    bodies = []
    for i, item in enumerate(scene.objects):
        shape = {"ball": "sphere"}.get(item.shape, item.shape)
        bodies.append(
            f'<body name="object{i}"><freejoint/><geom name="object{i}" type="{shape}" '
            f'size="{_text(item.geom_size)}" rgba="{_text(COLORS[item.color])} 1" '
            f'material="object" density="{_DENSITY}"/></body>'
        )
    diffuse, ambient = scene.light, scene.ambient
    return f"""<mujoco>
  <option timestep="{TIMESTEP}" gravity="0 0 {-GRAVITY}"/>
  <statistic extent="1" center="0 0 0"/>
  <visual>
    <global offwidth="{size}" offheight="{size}" fovy="{FOVY}"/>
    <quality shadowsize="0" offsamples="0" numslices="24" numstacks="14"/>
    <map znear="0.05" zfar="30"/>
    <headlight ambient="{_text([ambient] * 3)}" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
  </visual>
  <asset>
    <texture name="table" type="cube" builtin="{scene.texture}" width="96" height="96"
      rgb1="{_text(first)}" rgb2="{_text(second)}"/>
    <material name="table" texture="table" texrepeat="5 5" texuniform="false" specular="0"/>
    <material name="object" specular="{scene.gloss}" shininess="0.4"/>
  </asset>
  <default><geom condim="6" friction="0.5 0.01 0.002" solref="0.012 0.7"/></default>
  <worldbody>
    <light directional="true" dir="{_text(scene.light_direction)}" castshadow="false"
      diffuse="{_text([diffuse] * 3)}" specular="{_text([scene.gloss] * 3)}" ambient="0 0 0"/>
    <geom name="floor" type="box" size="8 8 0.05" pos="0 0 -0.8" rgba="{_text(scene.floor)} 1"/>
    <geom name="table" type="box" size="1.8 {half_depth} 0.02"
      pos="0 {scene.table_edge - half_depth} -0.02" material="table"/>
    {"".join(bodies)}
  </worldbody>
</mujoco>"""


def _rgb(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in np.clip(values, 0, 1))
    return red, green, blue


def _text(values: object) -> str:
    return " ".join(f"{float(v):.6g}" for v in values)  # type: ignore[attr-defined]
