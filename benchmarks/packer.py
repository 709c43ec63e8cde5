"""Print the time of a window in each form of the packer, and on a stream.

scripts/with_ros python -m benchmarks.packer [--device cpu] [--dtypes float32]
    [--threads 2] [--rounds 10] [--out benchmarks/results/packer_cpu.json]

On a CPU the windows have the geometry of llava-st-tiny and half the width of the published 7B; on a
CUDA device they have the 7B's, with 100 frames, and use the package's kernels if their library is
installed or named by LLAVA_ST_KERNELS. Weights are random. The machine's ceiling, a matrix product,
is measured first. The rounds alternate between the rows, and a row's time is the median of its
rounds. Rows of a stream include the work on their new frames' arrival. The predicted gain counts
multiply-adds only, by the formulas of ``Sizes`` (which must agree with torch's counter). Errors are
relative to the packer in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from llava_st_ros.atomic_files import write_text
from llava_st_ros.backends.torch_kernels import use_kernels
from llava_st_ros.config import (
    LanguageConfig,
    ModelConfig,
    PackerConfig,
    SpecialTokens,
    VisionConfig,
)
from llava_st_ros.export.graphs.packer import PackerGraph
from llava_st_ros.model.llava_st import LlavaST, VideoTokens
from llava_st_ros.model.packer.streaming import PackedWindow, StreamingPacker

SLIDES = (1, 5, 20)
EAGER, COMPILED, ABSORBED, ARRIVAL, FULL, HALF = (
    "torch eager",
    "torch.compile",
    "absorbed",
    "a frame arrives",
    "streaming, full",
    "streaming, half replaced",
)


@dataclass(frozen=True)
class Sizes:
    """A geometry, and formulas for the operations of its packer (two per multiply-add).

    Tokens per frame are N before the shared packer, n after it and m after the fast packer. D and E
    are the widths of the decoder and of the attention.

    Attributes:
        grid: Side of the grid of visual tokens: N = grid ** 2.
        width: D.
        embed: E.
        heads: Attention heads.
        side: Side of a spatial region.
        length: Frames of a temporal region.
        frames: Frames of a window.
    """

    grid: int
    width: int
    embed: int
    heads: int
    side: int
    length: int
    frames: int

    @property
    def tokens(self) -> tuple[int, int, int]:
        """N, n and m."""
        return tuple((self.grid // self.side**power) ** 2 for power in range(3))

    def eager(self) -> int:
        """Return the operations of the packer as published."""

        def packer(tokens: int, points: int) -> int:
            keys = 2 * tokens * (d * e + 2 * e * e) + 2 * tokens * e
            return keys + points * (d * e + 2 * e * e) + points * (e * e + e * d)

        d, e = self.width, self.embed
        return self._sum_over_packers(packer)

    def absorbed(self) -> int:
        """Return the operations with keys and values absorbed into the queries."""

        def packer(tokens: int, points: int) -> int:
            keys = 2 * tokens * (d * e + e * e) + 2 * tokens * self.heads * e
            return keys + points * (d * e + 4 * e * e + e * d)

        d, e = self.width, self.embed
        return self._sum_over_packers(packer)

    def arrival(self) -> int:
        """Return the operations on one frame's arrival: the first linear layers."""
        every, packed, fast = self.tokens
        return 2 * self.width * self.embed * (2 * every + 6 * packed + fast)

    def placement(self) -> int:
        """Return the operations of one frame at a new time index."""
        every, packed, fast = self.tokens
        square = 2 * every + 4 * packed  # second linear layers of keys, values and queries
        square += 4 * packed + 4 * packed  # output, then keys and values of fast and slow
        square += 5 * fast
        attention = 2 * (every + packed) * self.heads
        e = self.embed
        return 2 * (square * e * e + attention * e + 2 * fast * e * self.width)

    def region(self) -> int:
        """Return the operations of one temporal region."""
        packed = self.tokens[1]
        middles = 1 if self.length % 2 else 2
        e = self.embed
        square = (4 + middles) * packed * e * e
        attention = 2 * packed * self.length * self.heads * e
        return 2 * (square + attention + (1 + middles) * packed * e * self.width)

    def streaming(self, arrived: int, placed: int, regions: int) -> int:
        """Return the operations for that many new frames, moved frames and changed regions."""
        return arrived * self.arrival() + placed * self.placement() + regions * self.region()

    def _sum_over_packers(self, packer: Callable[[int, int], int]) -> int:
        """Sum the operations of the shared, the fast and the slow packer."""
        every, packed, fast = self.tokens
        frames, regions = self.frames, self.frames // self.length
        shared = packer(frames * every, frames * packed)
        return 2 * (
            shared
            + packer(frames * packed, frames * fast)
            + packer(frames * packed, regions * packed)
        )


GEOMETRIES = {
    "cpu": {
        "tiny": Sizes(12, 192, 192, 8, 2, 5, 20),
        "half of 7B": Sizes(27, 1792, 512, 8, 3, 5, 20),
    },
    "cuda": {"7B": Sizes(27, 3584, 1024, 8, 3, 5, 100)},
}


@dataclass
class Row:
    """A measured row of the table.

    Attributes:
        run: The measured function.
        flops: Its operations by the formulas of ``Sizes``.
        frames: Indices of the frames whose tokens ``run`` returns; None if it returns none.
    """

    run: Callable[[], Any]
    flops: int
    frames: tuple[int, ...] | None


def model_of(sizes: Sizes) -> LlavaST:
    """Return a float32 model with a small vision tower and decoder.

    Its weights keep activations near 1 and make every part affect the output.
    """
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=4 * sizes.grid,
        patch_size=4,
        vision=VisionConfig(16, 16, 1, 2),
        language=LanguageConfig(sizes.width, 16, 1, 8, 8, 40),
        packer=PackerConfig(sizes.embed, sizes.heads, sizes.side, sizes.length),
        special_tokens=SpecialTokens(*range(20, 34)),
        num_temporal_tokens=sizes.frames,
        num_frames=sizes.frames,
    )
    model = LlavaST(config).eval().requires_grad_(False)
    for name, parameter in model.get_submodule("model.vision_resampler").named_parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        else:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.1)
    return model


def rows_of(model: LlavaST, features: torch.Tensor, sizes: Sizes) -> dict[str, Row]:
    """Return the rows by name.

    Args:
        model: The model.
        features: [2 F, N, D], those of a window and of the F frames after it.
        sizes: The model's geometry.
    """
    count = sizes.frames
    times = range(count)
    first_window = tuple(times)
    packer = StreamingPacker(model)
    absorbed = PackerGraph(model).eval()
    indices = torch.arange(count, device=features.device)
    arrived = [packer.frame(frame) for frame in features[:count]]
    last = packer.pack(arrived, times)

    def stream(frame_indices: tuple[int, ...], last: PackedWindow | None) -> Row:
        """Return the row of a window after ``last``, with the arrival of its new frames."""
        known_frames = () if last is None else first_window
        new_times = [i for i in times if last is None or frame_indices[i] != i]
        new_regions = len({i // sizes.length for i in new_times})

        def run() -> VideoTokens:
            frames = [
                arrived[i] if i in known_frames else packer.frame(features[i])
                for i in frame_indices
            ]
            return packer.pack(frames, times, last).tokens

        new_frames = sum(i not in known_frames for i in frame_indices)
        return Row(run, sizes.streaming(new_frames, len(new_times), new_regions), frame_indices)

    def eager() -> VideoTokens:
        return model.pack(torch.stack(tuple(features[:count])), times)

    rows = {
        EAGER: Row(eager, sizes.eager(), first_window),
        ABSORBED: Row(lambda: absorbed(features, indices, indices), sizes.absorbed(), first_window),
        ARRIVAL: Row(lambda: packer.frame(features[0]), sizes.arrival(), None),
        FULL: stream(first_window, None),
    }
    for slide in SLIDES:
        frame_indices = tuple(range(slide, slide + count))
        rows[f"streaming, slid by {slide}"] = stream(frame_indices, last)
    half_window = count // 2
    rows[HALF] = stream((*first_window[:half_window], *range(count, 2 * count - half_window)), last)
    # Without autotuning on a CPU, torch.compile keeps the library's matrix products.
    mode = "max-autotune-no-cudagraphs" if features.is_cuda else "default"
    rows[COMPILED] = Row(torch.compile(eager, mode=mode), sizes.eager(), first_window)
    return rows


def measure(
    model: LlavaST, sizes: Sizes, device: str, dtype: torch.dtype, rounds: int
) -> dict[str, Any]:
    """Return the report of one geometry in one dtype; ``model`` is not modified."""
    ceiling = product_flops(device, dtype)
    exact = copy.deepcopy(model).to(device, torch.float64)
    model = copy.deepcopy(model).to(device, dtype)
    shape = (2 * sizes.frames, sizes.grid**2, sizes.width)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    rows = rows_of(model, features, sizes)
    results: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        results[name] = {"flops": row.flops}
        if name != COMPILED:
            counted = counted_flops(row.run)
            assert counted == row.flops, f"{name}: {counted} counted"
        if row.frames is not None:
            reference = exact.pack(features[list(row.frames)].double(), range(sizes.frames))
            results[name] |= errors(row.run(), reference)
    del exact
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds + 1):
        for name, row in rows.items():
            spent = seconds_of(row.run, device)
            if turn:  # the first round warms up
                seconds[name].append(spent)
    eager = median(seconds[EAGER])
    for name, result in results.items():
        spent = median(seconds[name])
        result |= {
            "median_seconds": spent,
            "predicted_gain": sizes.eager() / result["flops"],
            "gain": eager / spent,
            "flops_per_second": result["flops"] / spent,
            "share_of_product": result["flops"] / spent / ceiling,
        }
    return {"sizes": asdict(sizes), "product_flops_per_second": ceiling, "rows": results}


def counted_flops(run: Callable[[], object]) -> int:
    """Count operations with torch's counter, which is given the formula of region attention."""

    def attention(query: tuple[int, ...], key: tuple[int, ...], *_: object, **__: object) -> int:
        frames, height, width, embed = key
        return 4 * frames * height * width * query[-2] * embed

    mapping = {torch.ops.llava_st.region_attention: attention}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def errors(computed: Any, exact: VideoTokens) -> dict[str, float]:
    """Return the largest and the relative error of the worse of fast and slow tokens.

    The largest error is in standard deviations of the exact tokens; the relative error is the norm
    of the differences over the norm of the exact tokens.
    """
    differences = [a.double() - b for a, b in zip(computed, exact)]
    return {
        "largest_error": max(float(d.abs().max() / b.std()) for d, b in zip(differences, exact)),
        "relative_error": max(float(d.norm() / b.norm()) for d, b in zip(differences, exact)),
    }


def product_flops(device: str, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the fastest of ten products of two square matrices."""
    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(seconds_of(lambda: a @ a, device) for _ in range(10))


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Return the seconds of one call, the work that it enqueued on a GPU included."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def print_table(name: str, report: dict[str, Any]) -> None:
    """Print the report of one geometry in one dtype."""
    ceiling = report["product_flops_per_second"]
    print(f"\n{name}: a matrix product at {ceiling / 1e9:.0f} GFLOP/s")
    print(f"{'':26}      ms   gain  predicted   GFLOP  GFLOP/s  share  largest error  relative")
    for row, r in report["rows"].items():
        error = (
            f"{r['largest_error']:14.1e}  {r['relative_error']:8.1e}"
            if "largest_error" in r
            else ""
        )
        print(
            f"{row:26}{1e3 * r['median_seconds']:8.1f} {r['gain']:6.2f} {r['predicted_gain']:10.2f}"
            f" {r['flops'] / 1e9:7.2f} {r['flops_per_second'] / 1e9:8.0f}"
            f" {r['share_of_product']:6.0%} {error}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=list(GEOMETRIES), default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtypes = options.dtypes or (["float32"] if options.device == "cpu" else ["float16", "bfloat16"])
    on_cuda = options.device == "cuda"
    report: dict[str, Any] = {
        "machine": torch.cuda.get_device_name() if on_cuda else platform.processor(),
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "kernels": on_cuda and use_kernels(),
        "windows": {},
    }
    with torch.inference_mode():
        for geometry, sizes in GEOMETRIES[options.device].items():
            model = model_of(sizes)
            for dtype in dtypes:
                name = f"{geometry}, {sizes.frames} frames, {dtype}"
                measured = measure(
                    model, sizes, options.device, getattr(torch, dtype), options.rounds
                )
                print_table(name, measured)
                report["windows"][name] = measured
    if options.out:
        write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
