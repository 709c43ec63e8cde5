"""The streaming packer equals a full pack for any history of windows, with less work."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch.utils.flop_counter import FlopCounterMode

from llava_st_ros.cli.parity import load_case_backend
from llava_st_ros.config import LanguageConfig, ModelConfig, PackerConfig
from llava_st_ros.errors import BackendError, ConfigError
from llava_st_ros.evaluation.parity import ParityCase
from llava_st_ros.model.llava_st import LlavaST, VideoTokens
from llava_st_ros.model.packer.streaming import PackedWindow, StreamedFrame, StreamingPacker
from support.paths import GOLDEN
from support.tiny_model import tiny_config, tiny_model

pytestmark = pytest.mark.slow


def config_of(grid: int, packer: PackerConfig, **changes: object) -> ModelConfig:
    sizes = {"image_size": 4 * grid + 2, "num_frames": 2 * packer.temporal_region}
    return tiny_config(packer=packer, num_temporal_tokens=13, **sizes, **changes)


EVEN = config_of(12, PackerConfig(16, 4, 2, 4))
ODD = config_of(27, PackerConfig(12, 3, 3, 5))
# The ratio of attention width to decoder width is that of the published model.
PUBLISHED_RATIO = config_of(9, PackerConfig(16, 8), language=LanguageConfig(56, 48, 1, 4, 2, 40))


def features_of(config: ModelConfig, count: int, dtype: torch.dtype = torch.float64) -> Any:
    shape = (count, config.tokens_per_frame, config.language.hidden_size)
    return torch.randn(shape, dtype=dtype)


def difference(ours: VideoTokens, reference: VideoTokens) -> float:
    """The largest difference, in standard deviations of the reference."""
    assert [x.shape for x in ours] == [x.shape for x in reference]
    assert [x.dtype for x in ours] == [x.dtype for x in reference]
    return max(float((a - b).abs().max() / b.std()) for a, b in zip(ours, reference))


@functools.cache
def model_and_packer(config: ModelConfig) -> tuple[LlavaST, StreamingPacker]:
    """A float64 model and its packer."""
    model = tiny_model(config).double()
    return model, StreamingPacker(model)


class Stream(RuleBasedStateMachine):
    """Arbitrary sequences of windows, each packed after some earlier window."""

    config: ModelConfig

    @initialize()
    def start(self) -> None:
        self.model, self.packer = model_and_packer(self.config)
        self.length = self.config.packer.temporal_region
        self.features: dict[StreamedFrame, torch.Tensor] = {}
        self.frames = [self.new_frame() for _ in range(2 * self.length)]
        self.times = list(range(2 * self.length))
        self.last: PackedWindow | None = None
        self.before: list[tuple[PackedWindow, set[Any], list[torch.Tensor]]] = []

    def new_frame(self) -> StreamedFrame:
        features = features_of(self.config, 1)[0]
        frame = self.packer.frame(features)
        self.features[frame] = features
        return frame

    @rule(count=st.integers(1, 6))
    def slide(self, count: int) -> None:
        self.frames = self.frames[count:] + [self.new_frame() for _ in self.frames[:count]]

    @rule(slot=st.integers(0, 14))
    def replace(self, slot: int) -> None:
        self.frames[slot % len(self.frames)] = self.new_frame()

    @rule(slot=st.integers(0, 14), source=st.integers(0, 14))
    def repeat(self, slot: int, source: int) -> None:
        self.frames[slot % len(self.frames)] = self.frames[source % len(self.frames)]

    @rule(slot=st.integers(0, 14), time=st.integers(0, 12))
    def retime(self, slot: int, time: int) -> None:
        self.times[slot % len(self.times)] = time

    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        self.frames = data.draw(st.permutations(self.frames))

    @rule(regions=st.integers(1, 3))
    def resize(self, regions: int) -> None:
        wanted = regions * self.length
        missing = max(wanted - len(self.frames), 0)
        self.frames = self.frames[-wanted:] + [self.new_frame() for _ in range(missing)]
        self.times = [number % 13 for number in range(wanted)]

    @rule()
    def reset(self) -> None:
        self.last = None

    @rule(number=st.integers(0, 9))
    def continue_from(self, number: int) -> None:
        self.last = self.before[number % len(self.before)][0]

    @invariant()
    def equals_a_full_pack(self) -> None:
        window = self.packer.pack(self.frames, self.times, self.last)
        stacked = torch.stack([self.features[frame] for frame in self.frames])
        with torch.no_grad():
            assert difference(window.tokens, self.model.pack(stacked, self.times)) <= 1e-10
        timed = list(zip(self.frames, self.times))
        regions = [tuple(timed[i : i + self.length]) for i in range(0, len(timed), self.length)]
        known = next((known for w, known, _ in self.before if w is self.last), set())
        assert window.computed_frames == len(set(timed) - known)
        assert window.computed_regions == len(set(regions) - known)
        for earlier, _, tokens in self.before:
            assert all(map(torch.equal, earlier.tokens, tokens)), "an earlier window was changed"
        copies = [tokens.clone() for tokens in window.tokens]
        self.before.append((window, set(timed) | set(regions), copies))
        self.last = window


class EvenStream(Stream):
    config = EVEN


class OddStream(Stream):
    config = ODD


TestEvenStream, TestOddStream = EvenStream.TestCase, OddStream.TestCase
TestEvenStream.settings = settings(max_examples=12, stateful_step_count=8)
TestOddStream.settings = settings(max_examples=6, stateful_step_count=8)


@pytest.mark.parametrize("config", [EVEN, ODD, PUBLISHED_RATIO])
def test_float32_equals_a_full_pack(config: ModelConfig) -> None:
    model = tiny_model(config)
    packer = StreamingPacker(model)
    length = 2 * config.packer.temporal_region
    features = features_of(config, length + 3, torch.float32)
    frames = [packer.frame(one) for one in features]
    window = None
    for shift in range(4):
        window = packer.pack(frames[shift : shift + length], range(length), window)
        with torch.no_grad():
            reference = model.pack(features[shift : shift + length], range(length))
        assert difference(window.tokens, reference) <= 1e-5


def test_tokens_agree_with_the_published_code() -> None:
    case = ParityCase(GOLDEN)
    model = load_case_backend(case, device="cpu").model
    times = range(20)  # complete temporal regions of the case's frames
    pixels = torch.from_numpy(case.pixels(0, len(times)))
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        packer = StreamingPacker(model.to(dtype))
        with torch.no_grad():
            features = model.encode_images(pixels.to(dtype))
            reference = model.pack(features, times)
        frames = [packer.frame(one) for one in features]
        # After another window: shifted by three frames, with the same last frame.
        before = packer.pack(frames[3:] + frames[:2] + frames[-1:], times)
        window = packer.pack(frames, times, before)
        assert window.computed_frames == len(frames) - 1
        assert difference(window.tokens, reference) <= bound
        if dtype == torch.float32:  # as the published code ran
            published = (
                torch.from_numpy(case.expected[name]).flatten(0, -2)[: len(ours)]
                for name, ours in zip(("fast_tokens", "slow_tokens"), window.tokens)
            )
            assert difference(window.tokens, VideoTokens(*published)) <= bound


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def test_work_of_earlier_windows_is_reused() -> None:
    model = tiny_model(PUBLISHED_RATIO)
    packer = StreamingPacker(model)
    features = features_of(PUBLISHED_RATIO, 13, torch.float32)
    frames = [packer.frame(one) for one in features]
    times = range(10)
    window = packer.pack(frames[:10], times)

    def cost(chosen: Sequence[StreamedFrame]) -> int:
        return flops(lambda: packer.pack(chosen, times, window))

    eager = flops(lambda: model.pack(features[:10], times))
    slid = cost(frames[1:11])
    assert slid + flops(lambda: packer.frame(features[10])) < 0.33 * eager
    assert cost(frames[:10]) == 0
    assert cost(frames[9::-1]) == slid, "every frame has another time index, so all are computed"
    one_changed = cost([*frames[:6], frames[10], *frames[7:10]])
    two_changed = cost([*frames[:6], frames[10], frames[11], *frames[8:10]])
    a_frame = two_changed - one_changed
    a_region = one_changed - a_frame
    assert 0 < a_region < a_frame
    assert slid == 10 * a_frame + 2 * a_region


def test_windows_do_not_keep_old_frames() -> None:
    packer = StreamingPacker(tiny_model(PUBLISHED_RATIO))
    features = features_of(PUBLISHED_RATIO, 10, torch.float32)
    frames = [packer.frame(one) for one in features]
    first = weakref.ref(frames[0])
    window = packer.pack(frames, range(10))
    held = set()
    for step in range(12):
        place = step % 10
        frames[place] = packer.frame(features[step % 7])
        window = packer.pack(frames, range(10), window)
        assert window.computed_frames == 1
        kept = (*window.frames.tensors, *window.regions.tensors)
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
        held.add((sum(storages.values()), len(window.frames.rows), len(window.regions.rows)))
    assert len(held) == 1
    gc.collect()
    assert first() is None


def test_invalid_windows_are_rejected() -> None:
    packer = StreamingPacker(tiny_model(PUBLISHED_RATIO))
    frames = [packer.frame(one) for one in features_of(PUBLISHED_RATIO, 5, torch.float32)]
    with pytest.raises(BackendError, match=r"have shape \[80, 56\]; expected \[81, 56\]"):
        packer.frame(torch.zeros(80, 56))
    with pytest.raises(ConfigError, match="4 frames"):
        packer.pack(frames[:4], range(4))
    with pytest.raises(BackendError, match="no frames"):
        packer.pack([], [])
    for times in (range(4), range(-1, 4), range(9, 14)):
        with pytest.raises(BackendError, match="row of the temporal table, 0 to 12"):
            packer.pack(frames, times)
