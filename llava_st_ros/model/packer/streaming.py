"""The Spatial-Temporal Packer on a stream: what a frame's arrival settled is not computed again.

A frame keeps its features while its time index changes with every slide of the window. Three exact
rewrites on top of ``model.absorbed_packer`` do as much as can be done before the index is known:

- LAPE goes through the first Linear: W (f + P + T[t]) + b = (W (f + P) + b) + (W T)[t] with
  P = H[y] + W[x] (paper, section 3.2). The first term is computed once, when the frame comes; the
  second is a table.
- A packed token is a sum too: middle point + T[t] + O m + o, with m [E] the values that the shared
  packer mixed and O, o its output matrix and bias. So the first Linears W of the fast and the slow
  packer split alike: W times the middle point is the frame's, W (T[t] + o) a table, and W O one
  matrix of E columns where W has D. Packed tokens are made only where they are middle points.
- What depends on one frame and its index, or on the frames and indices of one temporal region, is
  taken over from the window before.

Sizes: N = g^2 patches a frame, n = N / s^2 packed tokens, m = n / s^2 fast tokens; s and t are the
sides of the spatial and the temporal regions; D the decoder's width, E the attention's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from llava_st_ros.coordinates import Axis
from llava_st_ros.errors import BackendError
from llava_st_ros.model.lape import positional_embedding
from llava_st_ros.model.llava_st import LlavaST, VideoTokens
from llava_st_ros.model.packer.absorbed import AbsorbedPacker, middle_points
from llava_st_ros.model.packer.late_gelu import late_gelu, late_sum


@dataclass(frozen=True, eq=False)
class StreamedFrame:
    """A frame after every product that needs no time index, for the packer that made it; equal to
    itself alone. The packer needs the features no more, which take about as much memory."""

    tokens: torch.Tensor  # [N, 2E] the shared packer's keys and values, first Linear
    queries: torch.Tensor  # [n, E] its queries, first Linear
    packed: torch.Tensor  # [n, 4E] fast keys, values, slow keys, values: the middle points' part
    points: torch.Tensor  # [n, D] the middle points
    slow_queries: torch.Tensor  # [n, E] the slow packer's queries: the middle points' part
    fast_points: torch.Tensor  # [m, D] the middle points of the middle points
    fast_queries: torch.Tensor  # [m, E] the fast packer's queries: their part


Placed = tuple[StreamedFrame, int]  # a frame and its time index
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class _Kept(Generic[Key]):
    """Tensors [K, ...] with a row for each of K keys."""

    rows: dict[Key, int]
    tensors: tuple[torch.Tensor, ...]

    def at(self, keys: Sequence[Key], tensor: int) -> torch.Tensor:
        """The keys' rows of that tensor [len(keys), ...]; not to be written to."""
        rows, found = [self.rows[key] for key in keys], self.tensors[tensor]
        if rows == list(range(len(found))):
            return found
        return found[torch.tensor(rows, device=found.device)]


FAST, MIXED, SLOW_KEYS, SLOW_VALUES = range(4)  # the tensors kept of placed frames

# So many frames at a time stay in a CPU's caches between one operation and the next.
FRAMES_AT_ONCE = 10


@dataclass(frozen=True, eq=False)
class PackedWindow:
    """A window's visual tokens (not to be written to), and what the next window may take over.

    ``computed_frames`` of its frames (at their time indices) and ``computed_regions`` of its
    temporal regions were not in the window before.
    """

    tokens: VideoTokens
    computed_frames: int
    computed_regions: int
    frames: _Kept[Placed]
    regions: _Kept[tuple[Placed, ...]]


class StreamingPacker(nn.Module):
    """LAPE and the packer of a LlavaST, for inference on a stream, equal to ``LlavaST.pack``.

    It holds no state of a stream: the caller keeps the frames and each camera's last window, so
    that calls may come from several threads. Tables and matrices are made in float64 and kept in
    the model's dtype, on its device.
    """

    def __init__(self, model: LlavaST) -> None:
        super().__init__()
        self.config = model.config
        packer = model.model.vision_resampler
        self.packer = AbsorbedPacker(packer)
        shared, fast, slow = (
            part.devide_attention
            for part in (packer.token_packer, packer.token_packer_fast, packer.token_packer_slow)
        )
        with torch.no_grad():
            dtype = model.lm_head.weight.dtype
            # As LlavaST adds them: float32 rounds the places that the tables are resized at.
            lape_dtype = torch.promote_types(dtype, torch.float32)
            temporal, height, width = (
                sum(model.table(axis, side).weight.to(lape_dtype) for side in ("input", "output"))
                / 2
                for axis in Axis
            )
            nowhere = torch.zeros_like(temporal[:1])
            plane = positional_embedding(nowhere, height, width, self.config.grid)[0]
            temporal = temporal.double()
            out = self.packer.shared.out_weight.double()
            packed = temporal + self.packer.shared.out_bias.double()
            self.register_buffer("plane", plane.to(dtype))
            self.register_buffer("packed_times", packed.to(dtype))
            self.tokens = _LateLinear((shared.to_k, shared.to_v), temporal)
            self.queries = _LateLinear((shared.to_q,), temporal)
            paths = (fast.to_k, fast.to_v, slow.to_k, slow.to_v)
            self.packed = _LateLinear(paths, packed, out)
            self.fast_queries = _LateLinear((fast.to_q,), packed, out)
            self.slow_queries = _LateLinear((slow.to_q,), packed, out)

    @torch.inference_mode()
    def frame(self, features: torch.Tensor) -> StreamedFrame:
        """Features [N, D] as ``encode_images`` returns them, before LAPE -> the frame.

        Raises BackendError where they are of another shape.
        """
        expected = self.plane.shape
        if features.shape != expected:
            raise BackendError(
                f"features {list(features.shape)}; expected {list(expected)}",
                "pass one frame's features as encode_images returns them",
            )
        side = self.packer.spatial_region
        placed = features + self.plane
        points = middle_points(self._on_grid(placed.unsqueeze(0)), side, 1)
        fast_points = middle_points(points, side, 1).flatten(0, 2)
        points = points.flatten(0, 2)
        return StreamedFrame(
            tokens=self.tokens(placed),
            queries=self.queries(points),
            packed=self.packed(points),
            points=points,
            slow_queries=self.slow_queries(points),
            fast_points=fast_points,
            fast_queries=self.fast_queries(fast_points),
        )

    @torch.inference_mode()
    def pack(
        self,
        frames: Sequence[StreamedFrame],
        time_indices: Sequence[int],
        last: PackedWindow | None = None,
    ) -> PackedWindow:
        """F frames at these rows of the temporal table -> the window: fast tokens [F * m, D], slow
        [F/t * n, D].

        ``last`` is any window of this packer, best the camera's last one: frames at the time index
        that they had in it, and temporal regions of such frames, are not computed again. Raises
        ConfigError unless F fills whole temporal regions, BackendError unless there is a row of the
        table for each frame.
        """
        self.config.check_window(len(frames), time_indices)
        places = [(frame, int(time)) for frame, time in zip(frames, time_indices)]
        length = self.packer.temporal_region
        groups = [tuple(places[i : i + length]) for i in range(0, len(places), length)]
        kept, new_frames = _renewed(places, last.frames if last else None, self._place)
        regions, new_regions = _renewed(
            groups,
            last.regions if last else None,
            lambda missing: (self._pack_regions(missing, kept),),
        )
        fast, slow = kept.at(places, FAST), regions.at(groups, 0)
        tokens = VideoTokens(fast.flatten(0, 1), slow.flatten(0, 1))
        return PackedWindow(tokens, new_frames, new_regions, kept, regions)

    def _place(self, places: Sequence[Placed]) -> tuple[torch.Tensor, ...]:
        """K frames at their time indices -> fast tokens [K, m, D]; for the temporal regions the
        shared packer's mixed values, slow keys and slow values [K, n, E] each."""
        step = FRAMES_AT_ONCE if self.plane.device.type == "cpu" else len(places)
        pieces = [self._place_some(places[i : i + step]) for i in range(0, len(places), step)]
        return tuple(map(torch.cat, zip(*pieces)))

    def _place_some(self, places: Sequence[Placed]) -> tuple[torch.Tensor, ...]:
        shared, fast, slow = self.packer.shared, self.packer.fast, self.packer.slow
        side = self.packer.spatial_region
        frames, times = self._apart(places)
        key, value = self.tokens.activated([frame.tokens for frame in frames], times).chunk(2, -1)
        query = self.queries.activated([frame.queries for frame in frames], times)
        paths = (shared.to_q, shared.to_k, shared.to_v)
        parts = map(_second, paths, (query, key, value))
        on_grid = shared.mix(*map(self._on_grid, parts), side, 1)
        mixed = on_grid.flatten(1, 2)

        packed = self.packed.activated([frame.packed for frame in frames], times, mixed)
        paths = (fast.to_k, fast.to_v, slow.to_k, slow.to_v)
        fast_key, fast_value, slow_key, slow_value = map(_second, paths, packed.chunk(4, -1))

        middles = middle_points(on_grid, side, 1).flatten(1, 2)
        fast_queries = [frame.fast_queries for frame in frames]
        query = self.fast_queries.activated(fast_queries, times, middles)
        parts = (_second(fast.to_q, query), fast_key, fast_value)
        answer = fast.mix(*map(self._on_grid, parts), side, 1).flatten(1, 2)
        points = self._packed_points([frame.fast_points for frame in frames], times, middles)
        tokens = points + nn.functional.linear(answer, fast.out_weight, fast.out_bias)
        return tokens, mixed, slow_key, slow_value

    def _pack_regions(
        self, groups: Sequence[tuple[Placed, ...]], kept: _Kept[Placed]
    ) -> torch.Tensor:
        """G temporal regions of t frames that are kept -> slow tokens [G, n, D]."""
        slow, length = self.packer.slow, self.packer.temporal_region
        places = [place for group in groups for place in group]
        # One frame in the middle, or two: what is linear in them goes before their mean.
        middles = [
            place for group in groups for place in group[(length - 1) // 2 : length // 2 + 1]
        ]
        mixed = kept.at(middles, MIXED)
        frames, times = self._apart(middles)
        query, points = (
            x.unflatten(0, (len(groups), -1)).mean(1)
            for x in (
                self.slow_queries.late([frame.slow_queries for frame in frames], times, mixed),
                self._packed_points([frame.points for frame in frames], times, mixed),
            )
        )
        parts = (
            slow.to_q[2](slow.to_q[1](query)),
            kept.at(places, SLOW_KEYS),
            kept.at(places, SLOW_VALUES),
        )
        answer = slow.mix(*map(self._on_grid, parts), 1, length).flatten(1, 2)
        return points + nn.functional.linear(answer, slow.out_weight, slow.out_bias)

    def _packed_points(
        self, points: Sequence[torch.Tensor], times: torch.Tensor, mixed: torch.Tensor
    ) -> torch.Tensor:
        """The packed tokens themselves [K, k, D], of middle points [k, D] and mixed [K, k, E]."""
        answers = nn.functional.linear(mixed, self.packer.shared.out_weight)
        return late_sum(points, self.packed_times, times, answers)

    def _apart(self, places: Sequence[Placed]) -> tuple[list[StreamedFrame], torch.Tensor]:
        times = torch.tensor([time for _, time in places], device=self.plane.device)
        return [frame for frame, _ in places], times

    @staticmethod
    def _on_grid(x: torch.Tensor) -> torch.Tensor:
        """[K, h * h, ...] -> [K, h, h, ...]."""
        return x.unflatten(1, (round(x.shape[1] ** 0.5), -1))


class _LateLinear(nn.Module):
    """First Linears of tokens that are a sum: x, known when their frame comes, the temporal table's
    row, and O m, the shared packer's mixed values m [E] through its output matrix O [D, E]."""

    def __init__(
        self,
        paths: Sequence[nn.Sequential],
        temporal: torch.Tensor,
        out: torch.Tensor | None = None,
    ) -> None:
        """The Linears that the ``paths`` begin with, one behind the other: W outputs in all;
        ``temporal`` f64 [T, D]; ``out`` f64 [D, E] where there is an O m."""
        super().__init__()
        weight, bias = (
            torch.cat([getattr(path[0], name) for path in paths]) for name in ("weight", "bias")
        )
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("times", (temporal @ weight.double().T).to(weight))
        self.register_buffer("answers", None if out is None else (weight.double() @ out).to(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[k, D] -> the first term [k, W]."""
        return nn.functional.linear(x, self.weight, self.bias)

    def late(
        self, terms: Sequence[torch.Tensor], times: torch.Tensor, mixed: torch.Tensor
    ) -> torch.Tensor:
        """The sums [K, k, W] of K frames' first terms [k, W], at the time indices [K], with
        ``mixed`` [K, k, E]."""
        return late_sum(terms, self.times, times, nn.functional.linear(mixed, self.answers))

    def activated(
        self, terms: Sequence[torch.Tensor], times: torch.Tensor, mixed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """GELU of such sums, with ``mixed`` or without."""
        addend = None if mixed is None else nn.functional.linear(mixed, self.answers)
        return late_gelu(terms, self.times, times, addend)


def _second(path: nn.Sequential, activated: torch.Tensor) -> torch.Tensor:
    """What a path's second Linear makes of the first one's results after GELU [K, k, E], which
    need not lie in memory side by side."""
    return path[2](activated.flatten(0, 1)).unflatten(0, activated.shape[:2])


def _renewed(
    keys: Sequence[Key],
    last: _Kept[Key] | None,
    compute: Callable[[Sequence[Key]], tuple[torch.Tensor, ...]],
) -> tuple[_Kept[Key], int]:
    """Rows of these keys and no others, and how many of them ``last`` did not have."""
    wanted = list(dict.fromkeys(keys))
    known = last.rows if last else {}
    missing = [key for key in wanted if key not in known]
    if last is None or len(missing) == len(wanted):
        return _Kept(_numbered(wanted), compute(missing)), len(missing)
    tensors = last.tensors
    if missing:
        tensors = tuple(map(torch.cat, zip(tensors, compute(missing))))
    joined = _Kept(known | {key: len(known) + i for i, key in enumerate(missing)}, tensors)
    tensors = tuple(joined.at(wanted, i) for i in range(len(tensors)))
    return _Kept(_numbered(wanted), tensors), len(missing)


def _numbered(keys: Sequence[Key]) -> dict[Key, int]:
    return {key: number for number, key in enumerate(keys)}
