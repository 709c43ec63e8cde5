"""An independent implementation of LLaVA-ST in float64 NumPy that shares no code with the package.

Written from the paper and the published code's behavior, one token and one region at a time where
that is clearest. Weights are a dict with the published names.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]
VISION = "model.vision_tower.vision_tower.vision_model."


def linear(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    y = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def layer_norm(x: np.ndarray, w: Weights, name: str, eps: float) -> np.ndarray:
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps)
    return scaled * w[name + ".weight"] + w[name + ".bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def vision(pixels: np.ndarray, w: Weights, case: dict[str, Any]) -> np.ndarray:
    """One frame [3, S, S] -> [N, Dv]."""
    patch, sizes = case["patch_size"], case["vision"]
    grid, eps = case["image_size"] // patch, sizes["layer_norm_eps"]
    kernel = w[VISION + "embeddings.patch_embedding.weight"]
    rows = []
    for y in range(grid):
        for x in range(grid):
            tile = pixels[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            rows.append((kernel * tile).sum((1, 2, 3)))
    h = np.array(rows) + w[VISION + "embeddings.patch_embedding.bias"]
    h = h + w[VISION + "embeddings.position_embedding.weight"]
    for layer in range(sizes["num_hidden_layers"] - 1):
        name = f"{VISION}encoder.layers.{layer}."
        n = layer_norm(h, w, name + "layer_norm1", eps)
        q, k, v = (linear(n, w, f"{name}self_attn.{part}_proj") for part in "qkv")
        heads, out = sizes["num_attention_heads"], []
        for q1, k1, v1 in zip(*(np.split(part, heads, -1) for part in (q, k, v))):
            out.append(softmax(q1 @ k1.T / math.sqrt(q1.shape[-1])) @ v1)
        h = h + linear(np.concatenate(out, -1), w, name + "self_attn.out_proj")
        n = layer_norm(h, w, name + "layer_norm2", eps)
        h = h + linear(gelu_tanh(linear(n, w, name + "mlp.fc1")), w, name + "mlp.fc2")
    return h


def project(h: np.ndarray, w: Weights) -> np.ndarray:
    return linear(gelu(linear(h, w, "model.mm_projector.0")), w, "model.mm_projector.2")


def lape(w: Weights, frame: int, grid: int) -> np.ndarray:
    """LAPE of the tokens of frame ``frame`` [N, D]."""

    def table(axis: str) -> np.ndarray:
        sides = (f"model.{axis}_{side}_embeddings.weight" for side in ("input", "output"))
        return sum(w[name] for name in sides) / 2

    def resized(rows: np.ndarray, index: int) -> np.ndarray:
        center = np.clip((index + 0.5) * len(rows) / grid - 0.5, 0, len(rows) - 1)
        low = int(center)
        high = min(low + 1, len(rows) - 1)
        return rows[low] * (1 - (center - low)) + rows[high] * (center - low)

    time, height, width = (table(a) for a in ("temporal", "spatial_height", "spatial_width"))
    return np.array(
        [
            time[frame] + resized(height, y) + resized(width, x)
            for y in range(grid)
            for x in range(grid)
        ]
    )


def pack_region(region: np.ndarray, point: np.ndarray, w: Weights, name: str, heads: int) -> Any:
    """Region [K, D] and its query point [D] -> [D]."""
    name = f"model.vision_resampler.{name}.devide_attention."

    def path(x: np.ndarray, part: str, index: int) -> np.ndarray:
        y = linear(gelu(linear(x, w, f"{name}to_{part}.0")), w, f"{name}to_{part}.2")
        y = layer_norm(y, w, f"{name}ln_{part}", 1e-5)
        weight = np.split(w[name + "attn.in_proj_weight"], 3)[index]
        return y @ weight.T + np.split(w[name + "attn.in_proj_bias"], 3)[index]

    q, k, v = path(point[None], "q", 0), path(region, "k", 1), path(region, "v", 2)
    out = [
        softmax(a @ b.T / math.sqrt(a.shape[-1])) @ c
        for a, b, c in zip(*(np.split(part, heads, -1) for part in (q, k, v)))
    ]
    mixed = linear(np.concatenate(out, -1), w, name + "attn.out_proj")
    return point + linear(mixed, w, name + "to_out")[0]


def pack(placed: np.ndarray, w: Weights, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens after LAPE [F, g, g, D] -> fast [F, (g/9)^2, D] and slow [F/5, (g/3)^2, D]."""

    def spatial(x: np.ndarray, name: str) -> np.ndarray:
        side = x.shape[1] // 3
        cells = [
            pack_region(
                frame[3 * i : 3 * i + 3, 3 * j : 3 * j + 3].reshape(9, -1),
                frame[3 * i + 1, 3 * j + 1],
                w,
                name,
                heads,
            )
            for frame in x
            for i in range(side)
            for j in range(side)
        ]
        return np.array(cells).reshape(len(x), side, side, -1)

    packed = spatial(placed, "token_packer")
    fast = spatial(packed, "token_packer_fast")
    slow = [
        pack_region(five[:, i, j], five[2, i, j], w, "token_packer_slow", heads)
        for five in np.split(packed, len(packed) // 5)
        for i in range(packed.shape[1])
        for j in range(packed.shape[2])
    ]
    cells = packed.shape[1] ** 2
    return fast.reshape(len(placed), -1, fast.shape[-1]), np.array(slow).reshape(
        len(placed) // 5, cells, -1
    )


def embed(
    ids: np.ndarray,
    w: Weights,
    case: dict[str, Any],
    values: dict[str, list[float]],
    blocks: dict[str, np.ndarray],
    released: bool,
) -> np.ndarray:
    """Embed a prompt. ``blocks`` maps a start token's name to its visual tokens [n, D]."""
    axes = ("temporal", "spatial_height", "spatial_width")
    tables = {axis: w[f"model.{axis}_input_embeddings.weight"] for axis in axes}
    rows = np.concatenate([w["model.embed_tokens.weight"], *tables.values()])[ids]
    tokens = case["token_ids"]
    for start, visual in blocks.items():
        if not (released and start == "vid_start"):
            position = list(ids).index(tokens[start])
            rows[position : position + len(visual)] = visual
    for axis in axes:
        places = [i for i, token in enumerate(ids) if token == tokens[axis + "_input"]]
        for place, value in zip(places, values[axis + "_input_locations"]):
            position = value * (len(tables[axis]) - 1)
            low, high = math.floor(position), math.ceil(position)
            mixed = tables[axis][low] * (1 - position + low) + tables[axis][high] * (position - low)
            if not (released and axis == "spatial_width"):
                rows[place] = mixed
    return rows


def logits(h: np.ndarray, w: Weights, config: dict[str, Any]) -> np.ndarray:
    """Embeddings [L, D] -> logits [L, vocabulary], causal, rotary positions from 0."""
    length, width = h.shape
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    dim, eps = width // heads, config["rms_norm_eps"]
    angles = np.arange(length)[:, None] / config["rope_theta"] ** (np.arange(0, dim, 2) / dim)

    def rotate(x: np.ndarray) -> np.ndarray:
        first, second = np.split(x, 2, -1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[name + ".weight"]

    future = np.triu(np.full((length, length), -np.inf), 1)
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        n = norm(h, name + "input_layernorm")
        q, k, v = (linear(n, w, f"{name}self_attn.{part}_proj") for part in "qkv")
        ks, vs, out = np.split(k, kv_heads, -1), np.split(v, kv_heads, -1), []
        for head, query in enumerate(np.split(q, heads, -1)):
            key, value = (part[head * kv_heads // heads] for part in (ks, vs))
            scores = rotate(query) @ rotate(key).T / math.sqrt(dim)
            out.append(softmax(scores + future) @ value)
        h = h + linear(np.concatenate(out, -1), w, name + "self_attn.o_proj")
        n = norm(h, name + "post_attention_layernorm")
        gate = linear(n, w, name + "mlp.gate_proj")
        up = linear(n, w, name + "mlp.up_proj")
        h = h + linear(gate / (1 + np.exp(-gate)) * up, w, name + "mlp.down_proj")
    h = norm(h, "model.norm")
    heads_out = [w["lm_head.weight"]] + [
        w[f"model.{axis}_output_embeddings.weight"]
        for axis in ("temporal", "spatial_height", "spatial_width")
    ]
    return h @ np.concatenate(heads_out).T


def generate(embeddings: np.ndarray, w: Weights, config: dict[str, Any], count: int) -> np.ndarray:
    """Greedy decoding without a cache; returns ``count`` ids."""
    axes = ("temporal", "spatial_height", "spatial_width")
    tables = [w[f"model.{axis}_input_embeddings.weight"] for axis in axes]
    vocabulary = np.concatenate([w["model.embed_tokens.weight"], *tables])
    ids: list[int] = []
    for _ in range(count):
        rows = np.concatenate([embeddings, vocabulary[ids]]) if ids else embeddings
        ids.append(int(logits(rows, w, config)[-1].argmax()))
    return np.array(ids, dtype=np.int64)
