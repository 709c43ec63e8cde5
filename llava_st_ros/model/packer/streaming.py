"""The Spatial-Temporal Packer on a stream: reuses the work of earlier windows.

A frame keeps its features while its time index t changes with every slide of the window. Three
exact rewrites on top of ``model.packer.absorbed`` compute as much as possible before t is known:

1. The first Linear of a token is split. A token is x = f + P + T[t] with features f, the spatial
   embedding P = H[y] + W[x] and the temporal table T (LAPE; paper, section 3.2), so

       W x + b = [W (f + P) + b] + (W T)[t].

   The bracket is computed once, when the frame arrives; W T is a table.
2. The first Linears of the fast and the slow packer are split in the same way. A packed token is
   y = p + T[t] + O m + o with p the region's middle point of f + P, m [E] the attention of the
   shared packer, and O, o its output matrix and bias, so

       W y + b = [W p + b] + (W (T + o))[t] + (W O) m.

   W O has E columns where W has D. Packed tokens themselves are needed only as middle points.
3. Results that depend only on one frame and its time index, or only on the frames and time indices
   of one temporal region, are taken from the last window.

Sizes: N = g^2 patches per frame, n = N / s^2 packed tokens, m = n / s^2 fast tokens; s and t are
the sides of the spatial and temporal regions; D is the decoder's width, E the attention's.
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
from llava_st_ros.model.packer.absorbed import AbsorbedAttention, AbsorbedPacker, middle_points
from llava_st_ros.model.packer.gather_add_gelu import gather_add, gather_add_gelu


@dataclass(frozen=True, eq=False)
class StreamedFrame:
    """The products of a frame that do not depend on its time index.

    Valid for the packer that made it; compared by identity. It replaces the features, which the
    packer no longer needs and which take about as much memory.

    Attributes:
        token_terms: First Linears of the shared packer's keys and values [N, 2E].
        query_terms: First Linear of its queries [n, E].
        packed_terms: Frame terms of the fast keys and values and slow keys and values [n, 4E].
        points: Middle points of the spatial regions [n, D].
        slow_query_terms: Frame terms of the slow packer's queries [n, E].
        fast_points: Middle points of the middle points [m, D].
        fast_query_terms: Frame terms of the fast packer's queries [m, E].
    """

    token_terms: torch.Tensor
    query_terms: torch.Tensor
    packed_terms: torch.Tensor
    points: torch.Tensor
    slow_query_terms: torch.Tensor
    fast_points: torch.Tensor
    fast_query_terms: torch.Tensor


TimedFrame = tuple[StreamedFrame, int]  # a frame and its time index
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class _KeyedTensors(Generic[Key]):
    """Tensors [K, ...] with one row for each of K keys."""

    rows: dict[Key, int]
    tensors: tuple[torch.Tensor, ...]

    def select(self, keys: Sequence[Key], tensor: int) -> torch.Tensor:
        """The keys' rows of one of the tensors [len(keys), ...]; read-only, may be a view."""
        rows, values = [self.rows[key] for key in keys], self.tensors[tensor]
        if rows == list(range(len(values))):
            return values
        return values[torch.tensor(rows, device=values.device)]


FAST, ATTENDED, SLOW_KEYS, SLOW_VALUES = range(4)  # the tensors kept of timed frames

# This many frames at a time stay in a CPU's caches from one operation to the next.
FRAMES_AT_ONCE = 10


@dataclass(frozen=True, eq=False)
class PackedWindow:
    """A window's visual tokens, and what the next window may reuse.

    Attributes:
        tokens: The visual tokens; read-only.
        computed_frames: Number of timed frames that were not in the last window.
        computed_regions: Number of temporal regions that were not in the last window.
        frames: Results of the timed frames.
        regions: Results of the temporal regions.
    """

    tokens: VideoTokens
    computed_frames: int
    computed_regions: int
    frames: _KeyedTensors[TimedFrame]
    regions: _KeyedTensors[tuple[TimedFrame, ...]]


class StreamingPacker(nn.Module):
    """LAPE and the packer of a LlavaST for inference on a stream, equal to ``LlavaST.pack``.

    It holds no state of a stream: the caller keeps the frames and each camera's last window, so it
    is thread-safe. Tables and matrices are computed in float64 and kept in the model's dtype and
    device.
    """

    plane: torch.Tensor  # P [N, D]
    packed_times: torch.Tensor  # T + o [rows, D]

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
            plane, temporal = _lape_tables(model)
            out = self.packer.shared.out_weight.double()
            packed = temporal + self.packer.shared.out_bias.double()
            dtype = model.lm_head.weight.dtype
            self.register_buffer("plane", plane.to(dtype))
            self.register_buffer("packed_times", packed.to(dtype))
            self.token_linear = _SplitLinear([shared.to_k, shared.to_v], temporal)
            self.query_linear = _SplitLinear([shared.to_q], temporal)
            self.packed_linear = _SplitLinear(
                [fast.to_k, fast.to_v, slow.to_k, slow.to_v], packed, out
            )
            self.fast_query_linear = _SplitLinear([fast.to_q], packed, out)
            self.slow_query_linear = _SplitLinear([slow.to_q], packed, out)

    @torch.inference_mode()
    def frame(self, features: torch.Tensor) -> StreamedFrame:
        """Compute a frame's products from its features [N, D] before LAPE.

        Raises BackendError for features of another shape.
        """
        expected = self.plane.shape
        if features.shape != expected:
            raise BackendError(
                f"the features have shape {list(features.shape)}; expected {list(expected)}",
                "pass one frame's features as encode_images returns them",
            )
        side = self.packer.spatial_region
        tokens = features + self.plane
        points = middle_points(_on_grid(tokens.unsqueeze(0)), side, 1)
        fast_points = middle_points(points, side, 1).flatten(0, 2)
        points = points.flatten(0, 2)
        return StreamedFrame(
            token_terms=self.token_linear(tokens),
            query_terms=self.query_linear(points),
            packed_terms=self.packed_linear(points),
            points=points,
            slow_query_terms=self.slow_query_linear(points),
            fast_points=fast_points,
            fast_query_terms=self.fast_query_linear(fast_points),
        )

    @torch.inference_mode()
    def pack(
        self,
        frames: Sequence[StreamedFrame],
        time_indices: Sequence[int],
        last: PackedWindow | None = None,
    ) -> PackedWindow:
        """Pack a window of F frames.

        Args:
            frames: The frames, from ``frame``.
            time_indices: Each frame's row of the temporal table.
            last: Any window of this packer, e.g. the camera's last one. Frames with the same time
                index as in it, and temporal regions of such frames, are not computed again.

        Returns:
            The window, with fast tokens [F * m, D] and slow tokens [F/t * n, D].

        Raises:
            ConfigError: F is not a multiple of the temporal region.
            BackendError: There are no frames, or a frame has no row of the temporal table.
        """
        self.config.check_window(len(frames), time_indices)
        timed = [(frame, int(time)) for frame, time in zip(frames, time_indices)]
        length = self.packer.temporal_region
        groups = [tuple(timed[i : i + length]) for i in range(0, len(timed), length)]
        results, new_frames = _update(timed, last.frames if last else None, self._pack_frames)
        regions, new_regions = _update(
            groups,
            last.regions if last else None,
            lambda missing: (self._pack_regions(missing, results),),
        )
        fast, slow = results.select(timed, FAST), regions.select(groups, 0)
        tokens = VideoTokens(fast.flatten(0, 1), slow.flatten(0, 1))
        return PackedWindow(tokens, new_frames, new_regions, results, regions)

    def _pack_frames(self, timed: Sequence[TimedFrame]) -> tuple[torch.Tensor, ...]:
        """Run the shared and the fast packer on K frames at their time indices.

        Returns fast tokens [K, m, D]; and for the temporal regions the shared packer's attention
        and the slow packer's keys and values [K, n, E] each.
        """
        step = FRAMES_AT_ONCE if self.plane.device.type == "cpu" else len(timed)
        chunks = [self._pack_chunk(timed[i : i + step]) for i in range(0, len(timed), step)]
        return tuple(torch.cat(parts) for parts in zip(*chunks))

    def _pack_chunk(self, timed: Sequence[TimedFrame]) -> tuple[torch.Tensor, ...]:
        fast, slow, side = self.packer.fast, self.packer.slow, self.packer.spatial_region
        frames, times = self._split(timed)
        attended_grid = self._shared_attention(frames, times)
        attended = attended_grid.flatten(1, 2)

        packed = self.packed_linear.gelu([frame.packed_terms for frame in frames], times, attended)
        hidden = packed.chunk(4, -1)
        fast_key, fast_value = _second(fast.to_k, hidden[0]), _second(fast.to_v, hidden[1])
        slow_key, slow_value = _second(slow.to_k, hidden[2]), _second(slow.to_v, hidden[3])

        middles = middle_points(attended_grid, side, 1).flatten(1, 2)
        query_terms = [frame.fast_query_terms for frame in frames]
        query = _second(fast.to_q, self.fast_query_linear.gelu(query_terms, times, middles))
        answer = _attend(fast, query, fast_key, fast_value, side, 1).flatten(1, 2)
        points = self._packed_tokens([frame.fast_points for frame in frames], times, middles)
        tokens = points + nn.functional.linear(answer, fast.out_weight, fast.out_bias)
        return tokens, attended, slow_key, slow_value

    def _shared_attention(
        self, frames: Sequence[StreamedFrame], times: torch.Tensor
    ) -> torch.Tensor:
        """The shared packer's attention without its output projection [K, g/s, g/s, E]."""
        shared = self.packer.shared
        terms = [frame.token_terms for frame in frames]
        key, value = self.token_linear.gelu(terms, times).chunk(2, -1)
        query = self.query_linear.gelu([frame.query_terms for frame in frames], times)
        return _attend(
            shared,
            _second(shared.to_q, query),
            _second(shared.to_k, key),
            _second(shared.to_v, value),
            self.packer.spatial_region,
            1,
        )

    def _pack_regions(
        self, groups: Sequence[tuple[TimedFrame, ...]], results: _KeyedTensors[TimedFrame]
    ) -> torch.Tensor:
        """Run the slow packer on G temporal regions of t frames each -> slow tokens [G, n, D]."""
        slow, length = self.packer.slow, self.packer.temporal_region
        timed = [timed_frame for group in groups for timed_frame in group]
        # The middle is one frame or the mean of two; linear functions of it are averaged after.
        middles = [
            timed_frame
            for group in groups
            for timed_frame in group[(length - 1) // 2 : length // 2 + 1]
        ]
        attended = results.select(middles, ATTENDED)
        frames, times = self._split(middles)
        query, points = (
            x.unflatten(0, (len(groups), -1)).mean(1)
            for x in (
                self.slow_query_linear.sum(
                    [frame.slow_query_terms for frame in frames], times, attended
                ),
                self._packed_tokens([frame.points for frame in frames], times, attended),
            )
        )
        query = slow.to_q[2](slow.to_q[1](query))
        keys, values = results.select(timed, SLOW_KEYS), results.select(timed, SLOW_VALUES)
        answer = _attend(slow, query, keys, values, 1, length).flatten(1, 2)
        return points + nn.functional.linear(answer, slow.out_weight, slow.out_bias)

    def _packed_tokens(
        self, points: Sequence[torch.Tensor], times: torch.Tensor, attended: torch.Tensor
    ) -> torch.Tensor:
        """Packed tokens [K, k, D] from middle points [k, D] and attention [K, k, E]."""
        answers = nn.functional.linear(attended, self.packer.shared.out_weight)
        return gather_add(points, self.packed_times, times, answers)

    def _split(self, timed: Sequence[TimedFrame]) -> tuple[list[StreamedFrame], torch.Tensor]:
        times = torch.tensor([time for _, time in timed], device=self.plane.device)
        return [frame for frame, _ in timed], times


class _SplitLinear(nn.Module):
    """The first Linears of several MLPs, split for tokens x = p + T[t] + O m into three terms.

    W x + b = [W p + b] + (W T)[t] + (W O) m, with W the MLPs' weights one below the other.

    Args:
        mlps: The MLPs, whose first Linears have W outputs in all.
        temporal: T, f64 [T, D].
        out: O, f64 [D, E]; None for tokens without m.
    """

    weight: torch.Tensor  # W [W, D]
    bias: torch.Tensor  # b [W]
    times: torch.Tensor  # W T [T, W]
    answers: torch.Tensor | None  # W O [W, E]

    def __init__(
        self,
        mlps: Sequence[nn.Sequential],
        temporal: torch.Tensor,
        out: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        weight, bias = (
            torch.cat([getattr(mlp[0], name) for mlp in mlps]) for name in ("weight", "bias")
        )
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("times", (temporal @ weight.double().T).to(weight))
        self.register_buffer("answers", None if out is None else (weight.double() @ out).to(weight))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Compute the frame term [k, W] of p [k, D]."""
        return nn.functional.linear(points, self.weight, self.bias)

    def sum(
        self, terms: Sequence[torch.Tensor], times: torch.Tensor, attended: torch.Tensor
    ) -> torch.Tensor:
        """Sum K frames' terms [k, W], their table rows and (W O) m, m [K, k, E] -> [K, k, W]."""
        return gather_add(terms, self.times, times, self._answer_term(attended))

    def gelu(
        self,
        terms: Sequence[torch.Tensor],
        times: torch.Tensor,
        attended: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """GELU of ``sum``, also without m."""
        addend = None if attended is None else self._answer_term(attended)
        return gather_add_gelu(terms, self.times, times, addend)

    def _answer_term(self, attended: torch.Tensor) -> torch.Tensor:
        assert self.answers is not None
        return nn.functional.linear(attended, self.answers)


def _lape_tables(model: LlavaST) -> tuple[torch.Tensor, torch.Tensor]:
    """P [N, D] and the temporal table T, f64 [rows, D]."""
    # In float32 or wider, as LlavaST adds them: the tables' resizing positions are rounded so.
    dtype = torch.promote_types(model.lm_head.weight.dtype, torch.float32)
    temporal, height, width = (
        (model.table(axis, "input").weight.to(dtype) + model.table(axis, "output").weight.to(dtype))
        / 2
        for axis in Axis
    )
    no_time = torch.zeros_like(temporal[:1])
    plane = positional_embedding(no_time, height, width, model.config.grid)[0]
    return plane, temporal.double()


def _on_grid(x: torch.Tensor) -> torch.Tensor:
    """[K, h * h, ...] -> [K, h, h, ...]."""
    return x.unflatten(1, (round(x.shape[1] ** 0.5), -1))


def _attend(
    attention: AbsorbedAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spatial: int,
    temporal: int,
) -> torch.Tensor:
    """``attention.attend`` on tokens [K, h * h, E]."""
    return attention.attend(_on_grid(query), _on_grid(key), _on_grid(value), spatial, temporal)


def _second(mlp: nn.Sequential, hidden: torch.Tensor) -> torch.Tensor:
    """Apply an MLP's second Linear to hidden values after GELU [K, k, E], contiguous or not."""
    return mlp[2](hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])


def _update(
    keys: Sequence[Key],
    last: _KeyedTensors[Key] | None,
    compute: Callable[[Sequence[Key]], tuple[torch.Tensor, ...]],
) -> tuple[_KeyedTensors[Key], int]:
    """The rows of exactly these keys, from ``last`` or computed; and how many were computed."""
    unique = list(dict.fromkeys(keys))
    available = last.rows if last else {}
    missing = [key for key in unique if key not in available]
    if last is None or len(missing) == len(unique):
        return _KeyedTensors(_enumerated(unique), compute(missing)), len(missing)
    tensors = last.tensors
    if missing:
        tensors = tuple(torch.cat(parts) for parts in zip(tensors, compute(missing)))
    joined = _KeyedTensors(
        available | {key: len(available) + i for i, key in enumerate(missing)}, tensors
    )
    tensors = tuple(joined.select(unique, i) for i in range(len(tensors)))
    return _KeyedTensors(_enumerated(unique), tensors), len(missing)


def _enumerated(keys: Sequence[Key]) -> dict[Key, int]:
    return {key: number for number, key in enumerate(keys)}
