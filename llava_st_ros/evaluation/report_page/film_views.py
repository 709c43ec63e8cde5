"""A filmstrip as the page's template shows it: captions, and boxes with tags in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_st_ros.evaluation.report_page.filmstrips import FilmFrame
from llava_st_ros.evaluation.report_page.groups import Group
from llava_st_ros.evaluation.report_page.texts import CleanText, number, seconds
from llava_st_ros.evaluation.results import Case
from llava_st_ros.records import Box


def film_view(case: Case, group: Group, shots: Sequence[FilmFrame]) -> dict[str, Any]:
    """Return what the template shows of a filmstrip."""
    first = shots[0].stamp if shots else 0
    reasons = {shot.missing for shot in shots}
    return {
        "missing": reasons.pop() if len(reasons) == 1 else "",
        "query": case.query or "(no text)",
        "metric": group.primary_name,
        "value": number(group.score(case)),
        "source": case.source,
        "task": case.task,
        "shots": [_shot(shot, shot.stamp - first) for shot in shots],
    }


def _shot(shot: FilmFrame, elapsed: int) -> dict[str, Any]:
    if shot.iou is not None:
        words = f"IoU {number(shot.iou)}"
    elif shot.predicted is not None:
        words = "predicted only"
    else:
        words = "true only" if shot.expected is not None else "no box"
    boxes = [
        _box(kind, box)
        for kind, box in (("pred", shot.predicted), ("true", shot.expected))
        if box is not None
    ]
    return {
        "image": CleanText(shot.image),
        "width": shot.size[0],
        "height": shot.size[1],
        "missing": shot.missing,
        "boxes": boxes,
        "caption": f"+{seconds(elapsed)} · {words}",
        "alt": f"Frame {seconds(elapsed)} after the first: {words}"
        + (f"; no image: {shot.missing}" if shot.missing else ""),
    }


def _box(kind: str, box: Box) -> dict[str, str]:
    """A box and its tag, placed in percent of the image."""
    x1, y1, x2, y2 = (100 * v for v in vars(box.clipped()).values())
    if kind == "pred":  # above the box, or in it at the upper edge of the image
        shift = "" if y1 < 10 else ";transform:translateY(-100%)"
        tag = f"left:{min(x1, 88):.2f}%;top:{y1:.2f}%{shift}"
    else:
        shift = "" if y2 > 90 else ";transform:translateY(100%)"
        tag = f"right:{min(100 - x2, 88):.2f}%;bottom:{100 - y2:.2f}%{shift}"
    place = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    return {
        "kind": kind,
        "letter": "P" if kind == "pred" else "T",
        "tag": tag,
        "place": _attributes(place),
    }


def _attributes(values: Mapping[str, float]) -> Any:
    from markupsafe import Markup

    return Markup(" ".join(f'{name}="{value:.2f}"' for name, value in values.items()))
