"""Scenes as MuJoCo XML (MJCF)."""

from __future__ import annotations

import math

from llava_st_ros.simulation.appearance import (
    MATERIALS,
    OBJECT_TEXTURE_SIZE,
    OBJECT_TEXTURES,
    SURFACES,
    Light,
)
from llava_st_ros.simulation.clutter import CONE, Distractor, Occluder
from llava_st_ros.simulation.scenes import GRAVITY, TIMESTEP, Scene

MAX_GEOMS = 200  # with shadows; segmentation ids up to 254 fit into one color channel
FLOOR = -0.75  # z, meters
_DENSITY = 300.0  # kg/m^3
_PASSABLE = 'contype="0" conaffinity="0"'


def scene_xml(scene: Scene, size: int) -> str:
    """Return a scene as MJCF.

    Object i is the body and the geom ``object<i>`` with a free joint. Every scene has the same mesh
    and the same number and sizes of textures, so that all scenes share one render context. The
    textures are flat until ``appearance.fill_textures`` writes them.

    Args:
        scene: The scene.
        size: Width and height of the rendered images in pixels.
    """
    appearance = scene.appearance
    half_depth = (scene.table_edge + 1.6) / 2
    return f"""<mujoco>
  <option timestep="{TIMESTEP}" gravity="0 0 {-GRAVITY}"/>
  <statistic extent="1" center="0 0 0"/>
  <visual>
    <global offwidth="{size}" offheight="{size}" fovy="{scene.camera.fovy}"/>
    <quality shadowsize="0" offsamples="0" numslices="24" numstacks="14"/>
    <map znear="0.03" zfar="30"/>
    <headlight ambient="{_text(appearance.ambient)}" diffuse="{_text([appearance.headlight] * 3)}"
      specular="0 0 0"/>
  </visual>
  <asset>
    {_textures()}
    {_materials(scene)}
    <mesh name="cone" vertex="{_cone()}"/>
  </asset>
  <default><geom condim="6" friction="0.5 0.01 0.002" solref="0.012 0.7"/></default>
  <worldbody>
    {"".join(map(_light, appearance.lights))}
    <geom name="floor" type="box" size="8 8 0.05" pos="0 0 {FLOOR - 0.05}" material="floor"
      {_PASSABLE}/>
    <geom name="wall" type="box" size="8 3 0.05" pos="0 {scene.wall} 1" euler="90 0 0"
      material="wall" {_PASSABLE}/>
    <geom name="table" type="box" size="1.8 {half_depth} 0.02"
      pos="0 {scene.table_edge - half_depth} -0.02" material="table"/>
    {"".join(_object(scene, i) for i in range(len(scene.objects)))}
    {"".join(_distractor(item) for item in scene.distractors)}
    {_occluder(scene.occluder) if scene.occluder else ""}
  </worldbody>
</mujoco>"""


def _light(light: Light) -> str:
    color = _text(light.color)
    return (
        f'<light directional="true" dir="{_text(light.direction)}" castshadow="false" '
        f'diffuse="{color}" specular="{color}" ambient="0 0 0"/>'
    )


def _textures() -> str:
    flat = [(name, "2d", size) for name, size in SURFACES.items()]
    flat += [(f"object-{name}", "cube", OBJECT_TEXTURE_SIZE) for name in OBJECT_TEXTURES]
    return "".join(
        f'<texture name="{name}" type="{kind}" builtin="flat" width="{size}" height="{size}"/>'
        for name, kind, size in flat
    )


def _materials(scene: Scene) -> str:
    materials = [
        f'<material name="{name}" texture="{name}" texuniform="true" specular="0" '
        f'texrepeat="{_text([getattr(scene.appearance, name).per_meter] * 2)}"/>'
        for name in SURFACES
    ]
    materials += [
        f'<material name="{name}" texture="object-{material.texture}" '
        f'specular="{material.specular}" shininess="{material.shininess}"/>'
        for name, material in MATERIALS.items()
    ]
    return "".join(materials)


def _object(scene: Scene, index: int) -> str:
    item = scene.objects[index]
    shape = {"ball": "sphere"}.get(item.shape, item.shape)
    return (
        f'<body name="object{index}"><freejoint/><geom name="object{index}" type="{shape}" '
        f'size="{_text(item.geom_size)}" rgba="{_text(scene.appearance.shades[index])} 1" '
        f'material="{scene.appearance.materials[index]}" density="{_DENSITY}"/></body>'
    )


def _distractor(item: Distractor) -> str:
    x, y, height = item.half_size
    kind, size, z = {
        "mat": ("box", [x, y, height], height),
        "plate": ("cylinder", [x, height], height),
        "book": ("box", [x, y, height], height),
        "stone": ("ellipsoid", [x, y, height], 0.9 * height),
        "cone": ("mesh", [], CONE[1] / 4),  # the origin of a mesh geom is its center of mass
    }[item.kind]
    form = 'mesh="cone"' if item.kind == "cone" else f'size="{_text(size)}"'
    return (
        f'<geom type="{kind}" {form} pos="{_text([*item.position, z])}" '
        f'euler="0 0 {math.degrees(item.yaw):.4g}" rgba="{_text(item.color)} 1" '
        f"{'' if item.is_solid else _PASSABLE}/>"
    )


def _occluder(item: Occluder) -> str:
    """Return a pole across the image, or an arm from above that ends in a gripper."""
    radius, attributes = item.radius, f'rgba="{_text(item.color)} 1" {_PASSABLE}'
    if item.kind == "pole":
        parts = f'<geom type="cylinder" size="{radius} 1" {attributes}/>'
    else:
        finger = f"{0.35 * radius} {1.1 * radius}"
        parts = (
            f'<geom type="capsule" fromto="0 0 {2 * radius} 0 0 1" size="{radius}" {attributes}/>'
            f'<geom type="sphere" size="{1.25 * radius}" {attributes}/>'
            + "".join(
                f'<geom type="capsule" pos="{sign * 0.7 * radius} 0 {-2 * radius}" '
                f'size="{finger}" {attributes}/>'
                for sign in (-1, 1)
            )
        )
    return f'<body name="occluder" mocap="true">{parts}</body>'


def _cone() -> str:
    radius, height = CONE
    angles = [2 * math.pi * k / 20 for k in range(20)]
    rim = [(radius * math.cos(a), radius * math.sin(a), 0.0) for a in angles]
    return " ".join(_text(p) for p in [*rim, (0.0, 0.0, height)])


def _text(values: object) -> str:
    return " ".join(f"{float(v):.6g}" for v in values)  # type: ignore[attr-defined]
