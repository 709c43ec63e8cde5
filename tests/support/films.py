"""Short films for tests: any codec and container that PyAV writes, and damage to their bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

WIDTH, HEIGHT, RATE = 160, 128, 20


def film_image(index: int) -> np.ndarray:
    """RGB [HEIGHT, WIDTH, 3]: texture, and a square that moves with the index."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (8, 10, 3), np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    x = 4 * index % (WIDTH - 32)
    image[48:80, x : x + 32] = (230, 20, 20)
    return image


def write_film(
    path: Path,
    codec: str,
    frames: int = 24,
    *,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    audio: float = 0.0,
) -> Path:
    """Write a film; ``times`` are in frames at RATE, ``audio`` is the length of silence in s."""
    formats = {"mjpeg": "yuvj420p", "gif": "rgb8"}
    with av.open(f"file:{path}", "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=RATE)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = formats.get(codec, "yuv420p")
        stream.options = options or {}
        sound = output.add_stream("aac", rate=48000) if audio else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(film_image(index), "rgb24")
            frame.pts, frame.time_base = times[index] if times else index, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for start in range(0, int(audio * 48000), 1024) if sound else ():
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts = 48000, start
            output.mux(sound.encode(silence))
        if sound:
            output.mux(sound.encode(None))
    return path


def cut(path: Path, share: float) -> Path:
    """Remove the end of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    return path


def packet_bytes(path: Path) -> list[tuple[int, int]]:
    """Position and size in the file of each video packet, in decoding order."""
    with av.open(f"file:{path}") as film:
        return [(p.pos, p.size) for p in film.demux(video=0) if p.size]


def overwrite(path: Path, position: int, size: int, value: int = 0) -> Path:
    """Replace bytes of a file."""
    data = bytearray(path.read_bytes())
    data[position : position + size] = bytes([value]) * size
    path.write_bytes(data)
    return path


def set_edit_list(path: Path, skipped: int, length: int) -> Path:
    """Let an MP4's edit list show ``length`` frames, after ``skipped`` ones."""
    with av.open(str(path)) as film:
        base = film.streams.video[0].time_base
    data = bytearray(path.read_bytes())
    at = data.find(b"elst") + 4
    version, count, _, media_time, rate = struct.unpack_from(">IIIiI", data, at)
    shown = length * 1000 // RATE  # in the movie's time scale, milliseconds
    start = media_time + round(Fraction(skipped, RATE) / base)
    struct.pack_into(">IIIiI", data, at, version, count, shown, start, rate)
    path.write_bytes(data)
    return path


def set_rotation(path: Path, degrees: int) -> Path:
    """Set the display matrix of an MP4's video track: clockwise, as phones write it."""
    one = 1 << 16
    matrices = {
        90: (0, one, 0, -one, 0, 0, HEIGHT * one, 0),
        180: (-one, 0, 0, 0, -one, 0, WIDTH * one, HEIGHT * one),
        270: (0, -one, 0, one, 0, 0, 0, WIDTH * one),
    }
    data = bytearray(path.read_bytes())
    struct.pack_into(">8i", data, data.find(b"tkhd") + 44, *matrices[degrees])
    path.write_bytes(data)
    return path
