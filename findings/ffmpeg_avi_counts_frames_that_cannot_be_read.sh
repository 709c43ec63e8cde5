#!/usr/bin/env bash
# An AVI file that FFmpeg writes with a gap in its time stamps counts frames that nobody can read.
#
# Versions: PyAV 18.1.0 (FFmpeg's libavformat 62.12.102), OpenCV 5.0.0.
#
# Behavior: AVI has no time stamps, so the muxer fills a gap with empty chunks, one per frame
# period, and counts them as frames in the header. The demuxer skips empty chunks. Eight frames with
# a gap of 100 periods make a file of 107 frames by its header, of which eight are read. OpenCV
# reports 107 frames too, and cannot read most of these indices. An MP4 of the frames counts eight.
#
# One would have guessed: the frame count of a file that was just written and closed properly is the
# number of frames written, or empty chunks are returned as repeated pictures.
#
# Where it matters: a camera recording with dropped frames, saved as AVI. Data set loaders that
# sample indices below CAP_PROP_FRAME_COUNT or stream.frames get no picture for most of them. Decode
# in order and use the frames' own pts.
#
# Output seen:
#   PyAV 18.1.0, OpenCV 5.0.0
#   avi: header 107 frames, PyAV reads 8, at [0, 1, 2, 3, 4, 104, 105, 106]
#   avi: OpenCV reports 107 frames, reads 8 in order; of the 107 indices 99 give no picture
#   mp4: header 8 frames, PyAV reads 8, at [0, 1, 2, 3, 4, 104, 105, 106]
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "av==18.1.0" "opencv-python-headless==5.0.0.93" "numpy<3" \
  2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

work = Path(sys.argv[1])
print(f"PyAV {av.__version__}, OpenCV {cv2.__version__}")
PERIOD = Fraction(1, 30)
TIMES = [0, 1, 2, 3, 4, 104, 105, 106]


def record(kind):
    """The header's frame count, and the times of the frames that PyAV decodes, in periods."""
    path = str(work / f"camera.{kind}")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = PERIOD
        for time in TIMES:
            picture = np.full((64, 64, 3), 2 * time, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, PERIOD
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(path) as container:
        count = container.streams.video[0].frames
        times = [round(frame.pts * frame.time_base / PERIOD) for frame in container.decode(video=0)]
    print(f"{kind}: header {count} frames, PyAV reads {len(times)}, at {times}")
    return count, times


def open_with_opencv(kind):
    """OpenCV's frame count, the frames it reads in order, and the indices it cannot read."""
    video = cv2.VideoCapture(str(work / f"camera.{kind}"), cv2.CAP_FFMPEG)
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    in_order = 0
    while video.read()[0]:
        in_order += 1
    missing = 0
    for index in range(count):
        video.set(cv2.CAP_PROP_POS_FRAMES, index)
        missing += not video.read()[0]
    video.release()
    print(
        f"{kind}: OpenCV reports {count} frames, reads {in_order} in order; "
        f"of the {count} indices {missing} give no picture"
    )
    return count, in_order, missing


avi = record("avi")
count, in_order, missing = open_with_opencv("avi")
mp4 = record("mp4")
assert mp4 == (8, TIMES)
assert avi == (107, TIMES), "the header counts the frames that are read now"
assert (count, in_order) == (107, 8) and missing > 90, "OpenCV reads what it counts now"
PYTHON

"$work/venv/bin/python" "$work/probe.py" "$work" 2>&1
