"""The scoring conventions a second time: one frame after the other, in exact fractions.

Written from the published descriptions, without the package's code: frames are looked at one by
one, pixel areas are counted as products of ``Fraction``, spans as sets of frames.
"""

from __future__ import annotations

from fractions import Fraction

from llava_st_ros.evaluation.conventions.records import BenchmarkSample, Dataset, Prediction

Corners = tuple[Fraction, Fraction, Fraction, Fraction]


def corners(box: object) -> Corners:
    return tuple(Fraction(getattr(box, name)) for name in ("x1", "y1", "x2", "y2"))  # type: ignore


def overlap(a: Corners, b: Corners) -> Fraction:
    def area(c: Corners) -> Fraction:
        return (c[2] - c[0]) * (c[3] - c[1]) if c[2] > c[0] and c[3] > c[1] else Fraction(0)

    common = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    total = area(a) + area(b) - area(common)
    return area(common) / total if total else Fraction(0)


def dense(prediction: Prediction, last: int, *, bridge: bool = False) -> dict[int, Corners]:
    """A box for each frame 0..last of the predicted span that has one."""
    seen = set(prediction.boxes) if bridge else set(prediction.boxes) | set(prediction.shown)
    found = {}
    for frame in range(last + 1):
        if prediction.span and not prediction.span[0] <= frame <= prediction.span[1]:
            continue
        left = frame
        while left >= 0 and left not in seen:
            left -= 1
        right = frame
        while right <= max(seen, default=0) and right not in seen:
            right += 1
        a, b = prediction.boxes.get(left), prediction.boxes.get(right)
        if a and b and left != right:
            share = Fraction(frame - left, right - left)
            pairs = zip(corners(a), corners(b))
            found[frame] = tuple((1 - share) * u + share * v for u, v in pairs)
        elif a or b:
            found[frame] = corners(a or b)
    return found  # type: ignore


def hc_stvg(sample: BenchmarkSample, prediction: Prediction) -> tuple[Fraction, Fraction]:
    if prediction.span is None:
        return Fraction(0), Fraction(0)
    (s, e), (ps, pe) = sample.span, prediction.span  # type: ignore
    tube = dense(prediction, sample.num_frames)
    hull = hits = 0
    total = Fraction(0)
    for frame in range(10_000):
        hull += min(s, ps) <= frame <= max(e, pe)
        if frame in sample.boxes and frame in tube:
            hits += 1
            total += overlap(tube[frame], corners(sample.boxes[frame]))
    return Fraction(hits, hull), total / hull


def five_per_second(start: int, stop: int, fps: float) -> list[int]:
    """Frames that begin a new fifth of a second, thinned out to 200."""
    chosen, ticks = [start], {int(start * (5 / fps))}
    for frame in range(start, stop):
        tick = int(frame * (5 / fps))
        if tick not in ticks:
            ticks.add(tick)
            chosen.append(frame)
    n = len(chosen)
    return chosen if n <= 200 else [chosen[j * n // 200] for j in range(200)]


def tubedetr(sample: BenchmarkSample, prediction: Prediction) -> tuple[Fraction, Fraction]:
    if prediction.span is None:
        return Fraction(0), Fraction(0)
    late = sample.dataset is Dataset.HC_STVG
    truth = {t + late for t in range(sample.span[0], sample.span[1] + 1)}  # type: ignore
    answered = set(range(prediction.span[0], prediction.span[1] + 1))
    hull = range(min(truth | answered), max(truth | answered) + 1)
    first, last = sample.segment or (0, sample.num_frames - 1)
    frames = five_per_second(first, last if late else last + 1, sample.fps)
    tube = dense(prediction, sample.num_frames)
    total, counted = Fraction(0), 0
    for frame in frames:
        counted += frame in hull
        if frame in truth and frame in tube and frame - late in sample.boxes:
            total += overlap(tube[frame], corners(sample.boxes[frame - late]))
    return Fraction(len(truth & answered), len(truth | answered)), total / max(counted, 1)


def frames_64(sample: BenchmarkSample, prediction: Prediction) -> tuple[Fraction, Fraction]:
    if prediction.span is None:
        return Fraction(0), Fraction(0)
    lost = sample.dataset is Dataset.HC_STVG
    truth = set(range(sample.span[0], sample.span[1] + 1 - lost))  # type: ignore
    answered = set(range(prediction.span[0], prediction.span[1] + 1))
    ends = [sample.span[0], sample.span[1] + 1 - lost, answered and min(answered)]  # type: ignore
    hull = max(ends[1], prediction.span[1] + 1) - min(ends[0], prediction.span[0])
    tube = dense(prediction, sample.num_frames, bridge=True)
    total = sum(
        (
            overlap(tube[t], corners(sample.boxes[t]))
            for t in truth
            if t in tube
            if t in sample.boxes
        ),
        Fraction(0),
    )
    either = len(truth | answered)
    return (Fraction(len(truth & answered), either) if truth else Fraction(0)), total / max(hull, 1)


def llava_st(
    sample: BenchmarkSample, prediction: Prediction
) -> tuple[Fraction, Fraction, Fraction]:
    first, last = sample.segment or (0, sample.num_frames - 1)
    tiou = Fraction(0)
    if prediction.fractions is not None:
        s, e = (Fraction(round((t - first) / (last - first), 3)) for t in sample.span)  # type: ignore
        ps, pe = (Fraction(round(value, 5)) for value in prediction.fractions)
        if max(e, pe) > min(s, ps):
            tiou = max(min(e, pe) - max(s, ps), Fraction(0)) / (max(e, pe) - min(s, ps))
    size = (sample.width, sample.height) * 2
    total, both, either = Fraction(0), 0, 0
    for frame in range(sample.num_frames):
        expected = sample.boxes.get(frame) if frame in prediction.shown else None
        predicted = prediction.boxes.get(frame)
        either += bool(expected or predicted)
        if expected and predicted:
            both += 1
            in_pixels = tuple(v * side for v, side in zip(corners(expected), size))
            whole = tuple(
                Fraction(round(getattr(predicted, name) * side))
                for name, side in zip(("x1", "y1", "x2", "y2"), size)
            )
            total += overlap(whole, in_pixels)  # type: ignore
    return tiou, total / max(both, 1), total / max(either, 1)


def ours(sample: BenchmarkSample, prediction: Prediction) -> tuple[Fraction, Fraction, Fraction]:
    s, e = sample.span  # type: ignore
    truth, answered = set(range(s, e + 1)), set()
    tube = dense(prediction, sample.num_frames)
    if prediction.span is not None:
        answered = set(range(prediction.span[0], prediction.span[1] + 1))
    tiou = Fraction(len(truth & answered), len(truth | answered))
    hidden = truth - set(sample.boxes)
    p = (answered or set(prediction.boxes)) - hidden
    g = set(sample.boxes)
    total = sum(
        (overlap(tube[t], corners(sample.boxes[t])) for t in p & g if t in tube), Fraction(0)
    )
    viou = total / len(p | g) if p | g else Fraction(0)
    return tiou, viou, total / len(p & g) if p & g else Fraction(0)
