"""``llava-st eval convert``: annotations from and to COCO video, MOT text and CVAT XML."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava_st_ros.annotations.exchange import FORMATS

HELP = "convert annotations from and to COCO video, MOTChallenge text and CVAT for video"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", type=Path, help="file to read")
    parser.add_argument("output", metavar="OUT", type=Path, help="file to write")
    parser.add_argument(
        "--from", dest="source", choices=FORMATS, required=True, help="format of IN"
    )
    parser.add_argument("--to", dest="target", choices=FORMATS, required=True, help="format of OUT")
    parser.add_argument(
        "--bag",
        type=Path,
        required=True,
        help="recording of the annotated images: their frames are numbered in its order",
    )
    parser.add_argument("--topic", help="image topic (default: the only one)")
    parser.add_argument("--video", metavar="NAME", help="video of a COCO file, by name or id")
    parser.add_argument(
        "--first-frame",
        type=int,
        choices=(0, 1),
        help="number of the first frame (default: 1 in MOT text; what a COCO file shows)",
    )


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from llava_st_ros.atomic_files import write_text
    from llava_st_ros.cli.outputs import check_files, check_is_no_input
    from llava_st_ros.evaluation.annotation_conversion import (
        InputFile,
        convert_annotations,
        read_footage,
    )

    check_files(args.output)
    check_is_no_input(args.output, args.input, args.bag)
    with tqdm(desc="reading", unit="frame", file=sys.stderr, disable=None) as bar:

        def show(total: int) -> None:
            bar.total = total
            bar.update()

        footage = read_footage(args.bag, args.topic, show)
    source = InputFile(args.input, args.source, args.video, args.first_frame)
    converted = convert_annotations(source, args.target, footage)
    write_text(args.output, converted.text)
    for note in (*footage.notes, *converted.notes):
        print(f"note: {note}", file=sys.stderr)
    print(
        f"wrote {args.output}: {converted.objects} objects with {converted.boxes} boxes in "
        f"{len(footage.frames)} frames of {footage.camera.topic}"
    )
    return 0
