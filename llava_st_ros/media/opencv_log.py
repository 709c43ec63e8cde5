"""OpenCV and its FFmpeg print nothing: a file that they cannot read or write is one error.

Imported before OpenCV is used; OPENCV_LOG_LEVEL and OPENCV_FFMPEG_LOGLEVEL keep their meaning.
"""

from __future__ import annotations

import os

import cv2

if "OPENCV_LOG_LEVEL" not in os.environ:
    # The function's name depends on OpenCV's version.
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_log_level(0)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; read at the first video
