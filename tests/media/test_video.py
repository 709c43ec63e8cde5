"""Video files: the container's times, edit lists, rotation, and every loss counted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from llava_st_ros.errors import DataError
from llava_st_ros.media import video
from llava_st_ros.media.video import VideoSource
from llava_st_ros.records import NANOSECONDS
from support.films import (
    HEIGHT,
    RATE,
    WIDTH,
    cut,
    film_image,
    overwrite,
    packet_bytes,
    set_edit_list,
    set_rotation,
    write_film,
)

STEP = NANOSECONDS // RATE
FAST = {"deadline": "realtime", "cpu-used": "8"}
B_FRAMES = {"bf": "2", "g": "12"}
FILMS = [
    ("plain.mp4", "mpeg4", {}),
    ("reordered.mp4", "mpeg4", {"options": B_FRAMES}),
    ("h264.mp4", "libx264", {"options": {"bf": "3"}}),
    ("fragments.mp4", "libx264", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    ("plain.mkv", "libx264", {"options": {"bf": "3"}}),
    ("sound.mkv", "mpeg4", {"audio": 2.0}),
    ("sound.mp4", "mpeg4", {"audio": 2.0}),
    ("plain.avi", "mjpeg", {}),
    ("plain.ts", "mpeg4", {}),
    ("plain.webm", "libvpx", {"options": FAST}),
    ("plain.gif", "gif", {}),
]


@pytest.mark.parametrize(("name", "codec", "settings"), FILMS, ids=[f[0] for f in FILMS])
def test_every_container_is_read_completely_and_without_a_note(
    tmp_path: Path, name: str, codec: str, settings: dict
) -> None:
    source = VideoSource(write_film(tmp_path / name, codec, **settings))
    frames = list(source)
    assert len(frames) == 24
    assert (source.dropped, source.missing, source.concealed, source.notes) == (0, 0, 0, [])
    assert source.damage == ""
    stamps = np.array([frame.stamp for frame in frames])
    tolerance = 0 if name.endswith(".mp4") else NANOSECONDS // 90  # a GIF counts hundredths
    assert np.abs(stamps - stamps[0] - STEP * np.arange(24)).max() <= tolerance
    for index in (0, 11, 23):
        difference = np.abs(frames[index].image.astype(int) - film_image(index)).mean()
        assert difference < (25 if name.endswith(".gif") else 10), index
    assert [frame.stamp for frame in source] == stamps.tolist()  # it can be read again


def test_pixels_are_those_of_opencv(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "mpeg4"), ("a.avi", "mjpeg")):
        path = write_film(tmp_path / name, codec, 5)
        capture = cv2.VideoCapture(str(path))
        for frame in VideoSource(path):
            np.testing.assert_array_equal(frame.image, capture.read()[1][..., ::-1])
        capture.release()


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4"])
def test_stamps_are_the_containers_times_which_may_start_later(tmp_path: Path, name: str) -> None:
    path = write_film(tmp_path / name, "mpeg4", times=[i + 7 for i in range(24)])
    source = VideoSource(path)
    assert [frame.stamp for frame in source] == [(i + 7) * STEP for i in range(24)]
    assert source.notes == []


@pytest.mark.parametrize("name", ["variable.mkv", "variable.mp4"])
def test_a_variable_frame_rate_keeps_each_time(tmp_path: Path, name: str) -> None:
    times = np.cumsum([0, *np.random.default_rng(0).integers(1, 9, 23)]).tolist()
    source = VideoSource(write_film(tmp_path / name, "mpeg4", times=times))
    assert [frame.stamp for frame in source] == [time * STEP for time in times]
    assert source.notes == []


def test_an_edit_list_hides_frames_without_loss(tmp_path: Path) -> None:
    for skipped, length in ((9, 15), (0, 10), (4, 12)):
        path = write_film(tmp_path / "edited.mp4", "mpeg4", options=B_FRAMES)
        source = VideoSource(set_edit_list(path, skipped, length))
        frames = list(source)
        assert abs(len(frames) - length) <= 1
        assert [frame.stamp for frame in frames] == [i * STEP for i in range(len(frames))]
        assert (source.dropped, source.missing, source.defects, source.damage) == (0, 0, [], "")
        hidden = 24 - len(frames)
        assert source.notes == [f"the container's edit list leaves out {hidden} of 24 frames"]
        assert np.abs(frames[0].image.astype(int) - film_image(skipped)).mean() < 10


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_display_rotation_is_applied(tmp_path: Path, degrees: int) -> None:
    path = write_film(tmp_path / "phone.mp4", "mpeg4", 3)
    upright = [frame.image for frame in VideoSource(path)]
    turned = [frame.image for frame in VideoSource(set_rotation(path, degrees))]
    for image, expected in zip(turned, upright):
        np.testing.assert_array_equal(image, np.rot90(expected, -degrees // 90))
    assert turned[0].shape == ((WIDTH, HEIGHT, 3) if degrees != 180 else (HEIGHT, WIDTH, 3))


CUTS = [
    ("cut.mkv", "mpeg4", {"options": {"g": "4"}}),
    ("sound.mkv", "mpeg4", {"options": {"g": "4"}, "audio": 1.2}),
    ("cut.avi", "mjpeg", {}),
    ("cut.mp4", "mpeg4", {"options": {"g": "4"}, "container": {"movflags": "faststart"}}),
    ("cut.webm", "libvpx", {"options": {"g": "4", **FAST}}),
]


@pytest.mark.parametrize(("name", "codec", "settings"), CUTS, ids=[c[0] for c in CUTS])
def test_a_cut_file_is_said_to_be_cut_with_counts(
    tmp_path: Path, name: str, codec: str, settings: dict
) -> None:
    path = cut(write_film(tmp_path / name, codec, **settings), 0.55)
    source = VideoSource(path)
    frames = list(source)
    assert 4 <= len(frames) < 20
    assert len(frames) + source.dropped + source.missing == 24
    assert f"{source.missing} of 24 frames are missing; {len(frames)} were read" in source.notes[0]
    assert "truncated or damaged" in source.defects[0]
    assert source.damage


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mjpeg"), ("a.mp4", "mpeg4")])
def test_a_damaged_frame_in_the_middle_costs_only_itself(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write_film(tmp_path / name, codec, options={"g": "1"})
    position, size = packet_bytes(path)[9]
    source = VideoSource(overwrite(path, position, size, 0xA5))
    stamps = [frame.stamp for frame in source]
    assert stamps == [i * STEP for i in range(24) if i != 9]
    assert source.dropped == 1
    assert source.problem.startswith("0.45 s: ")
    assert source.damage.startswith(f"{path}: frames that cannot be decoded: 1 (0.45 s: ")


def test_a_hole_in_the_index_or_the_data_is_counted(tmp_path: Path) -> None:
    path = write_film(tmp_path / "hole.avi", "mjpeg")
    packets = packet_bytes(path)
    start = packets[9][0] - 8  # with the headers of three chunks
    source = VideoSource(overwrite(path, start, packets[12][0] - 8 - start))
    frames = list(source)
    assert len(frames) + source.dropped + source.missing == 24
    assert len(frames) >= 20
    assert source.notes or source.dropped


def test_a_damaged_start_time_does_not_hide_a_missing_frame(tmp_path: Path) -> None:
    path = write_film(tmp_path / "late.avi", "mjpeg")
    position, _ = packet_bytes(path)[9]
    data = bytearray(path.read_bytes())
    data[position - 8 : position - 4] = b"JUNK"  # the frame is no frame any more
    header = data.index(b"strh") + 8
    data[header + 28 : header + 32] = (512).to_bytes(4, "little")  # dwStart
    path.write_bytes(data)
    source = VideoSource(path)
    assert len(list(source)) == 23
    assert source.missing + source.dropped == 1


def test_damage_that_the_decoder_conceals_is_reported(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", "libx264", options={"bf": "0", "g": "6"})
    position, size = packet_bytes(path)[12]
    source = VideoSource(overwrite(path, position + size // 2, 30, 0x11))
    frames = list(source)
    assert len(frames) + source.dropped == 24
    assert source.concealed >= 1
    assert "damaged frames that the decoder concealed" in source.notes[0]
    assert " at 0.60 s: " in source.notes[0]
    assert source.damage


def test_a_file_of_another_format_than_its_name_says_is_noted(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.avi", "mjpeg", 3).rename(tmp_path / "a.mkv")
    source = VideoSource(path)
    assert len(list(source)) == 3
    assert source.notes == ["the file is read as AVI (Audio Video Interleaved), not .mkv"]


@pytest.mark.parametrize("name", ["gap.mkv", "gap.avi", "gap.mp4"])
def test_gaps_between_evenly_spaced_frames_are_noted(tmp_path: Path, name: str) -> None:
    times = [i if i < 12 else i + 4 for i in range(24)]  # the recorder lost four frames
    source = VideoSource(write_film(tmp_path / name, "mpeg4", times=times))
    assert [frame.stamp for frame in source] == [time * STEP for time in times]
    assert source.notes == [
        "gaps between frames that are 0.05 s apart: 1, the longest of 0.25 s after 0.55 s"
    ]
    assert source.damage == ""


def test_frames_without_a_time_follow_each_other_and_are_noted(tmp_path: Path) -> None:
    for name, codec in (("raw.m4v", "mpeg4"), ("raw.h264", "libx264")):
        source = VideoSource(write_film(tmp_path / name, codec))
        stamps = np.array([frame.stamp for frame in source])
        assert len(stamps) == 24
        assert (np.diff(stamps) > 0).all()
    # Of the two, only an H.264 stream leaves the times of its frames open.
    assert source.notes == [
        "frames whose time is absent or does not increase: 24; they follow the frame before them "
        "by 0.0400 s"
    ]


@pytest.mark.parametrize("name", ["a:b.mp4", "file:c.mp4", "run 50% %03d é.mp4", "-x.mp4"])
def test_any_name_is_a_file(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "plain.mp4", "mpeg4", 3).rename(tmp_path / name)
    assert len(list(VideoSource(name))) == 3


def test_the_size_of_frames_is_bounded(tmp_path: Path, monkeypatch) -> None:
    path = write_film(tmp_path / "a.mp4", "mpeg4", 3)
    monkeypatch.setattr(video, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(DataError, match=f"frames of {WIDTH}x{HEIGHT} pixels; expected at most"):
        VideoSource(path)


def test_files_that_are_no_video_are_rejected_in_one_line(tmp_path: Path, capfd) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    cut(write_film(tmp_path / "no_index.mp4", "mpeg4"), 0.5)
    for name, found in (
        ("text.mp4", "cannot be opened as a video"),
        ("empty.mp4", "cannot be opened as a video"),
        ("no_index.mp4", "moov atom not found"),
        ("absent.mp4", "expected a video file"),
        ("rtsp://host/stream", "expected a video file"),
    ):
        with pytest.raises(DataError, match=found) as caught:
            VideoSource(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "hello\n" * 100),
        ("live.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfilm.mp4\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile 'film.mp4'\n"),
        (
            "a.sdp",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            "m=video 5004 RTP/AVP 26\n",
        ),
    ],
)
def test_text_and_lists_of_other_files_are_no_video(tmp_path: Path, name: str, text: str) -> None:
    """FFmpeg draws any text as a film, and waits for the next entry of a live playlist."""
    write_film(tmp_path / "film.mp4", "mpeg4", 4)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="it is text, or a list of other files"):
        VideoSource(tmp_path / name)


def test_nothing_is_printed_about_damage(tmp_path: Path, capfd) -> None:
    path = write_film(tmp_path / "a.mp4", "libx264", options={"g": "6"})
    position, size = packet_bytes(path)[12]
    list(VideoSource(overwrite(path, position, size)))
    film = write_film(tmp_path / "a.mkv", "mpeg4", options={"g": "4"})
    list(VideoSource(cut(film, 0.6)))
    assert capfd.readouterr() == ("", "")


def test_a_folder_is_named_with_the_options_for_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; .*use --images or --bag"):
        VideoSource(tmp_path)
