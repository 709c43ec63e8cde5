"""The three coordinate axes (time, height, width): their tokens, tables and vocabulary rows.

LLaVA-ST (section 3.2) writes a coordinate as one token of a table: ``<TEMP-012>``,
``<HEIGHT-034>``, ``<WIDTH-056>``. Row k of a table with R rows is the value k / (R - 1) of the
window or the frame. The vocabulary is [text | time | height | width]: the id of a token is its row
plus an offset.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Axis(Enum):
    """A coordinate axis; members are in the order of the vocabulary.

    Attributes:
        kind: Its name in tokens: "TEMP" in ``<TEMP-012>``.
        table: Its name in parameters, structural tokens and ST-Align's variables: "temporal" in
            ``temporal_input_embeddings``.
    """

    TIME = ("TEMP", "temporal")
    HEIGHT = ("HEIGHT", "spatial_height")
    WIDTH = ("WIDTH", "spatial_width")

    def __init__(self, kind: str, table: str) -> None:
        self.kind, self.table = kind, table

    @classmethod
    def of_kind(cls, kind: str) -> Axis:
        """Return the axis of a kind: "TEMP", "HEIGHT" or "WIDTH"."""
        return next(axis for axis in cls if axis.kind == kind)

    @property
    def input_token(self) -> str:
        """The placeholder of a value in a question: ``<TEMP-INPUT>``."""
        return f"<{self.kind}-INPUT>"

    @property
    def output_token(self) -> str:
        """The placeholder of a value in a training answer: ``<TEMP-OUTPUT>``."""
        return f"<{self.kind}-OUTPUT>"

    def token(self, row: int) -> str:
        """Return the token of a row: ``Axis.TIME.token(12)`` is ``<TEMP-012>``."""
        return f"<{self.kind}-{row:03d}>"


CORNERS = (Axis.WIDTH, Axis.HEIGHT, Axis.WIDTH, Axis.HEIGHT)  # of a box: x1, y1, x2, y2

_KINDS = "|".join(axis.kind for axis in Axis)
COORDINATE = re.compile(rf"<({_KINDS})-(\d{{3,}})>")  # a coordinate token: its kind and its row
INPUT = re.compile(rf"<({_KINDS})-INPUT>")  # a placeholder in a question: its kind
OUTPUT = re.compile(rf"<({_KINDS})-OUTPUT>")  # a placeholder in a training answer: its kind


@dataclass(frozen=True)
class CoordinateVocabulary:
    """The ids of a checkpoint's coordinate tokens.

    Attributes:
        text_rows: The number of text ids, which precede the coordinates.
        time_rows: Rows of the temporal table.
        space_rows: Rows of each of the two spatial tables.
    """

    text_rows: int
    time_rows: int
    space_rows: int

    def rows(self, axis: Axis) -> int:
        """Return the number of rows of an axis's table."""
        return self.time_rows if axis is Axis.TIME else self.space_rows

    def offset(self, axis: Axis) -> int:
        """Return the id of row 0 of an axis."""
        before = {Axis.TIME: 0, Axis.HEIGHT: self.time_rows}
        return self.text_rows + before.get(axis, self.time_rows + self.space_rows)

    def ids(self, axis: Axis) -> range:
        """Return the ids of an axis."""
        start = self.offset(axis)
        return range(start, start + self.rows(axis))

    @property
    def size(self) -> int:
        """The number of ids, text and coordinates."""
        return self.text_rows + self.time_rows + 2 * self.space_rows

    def locate(self, token_id: int) -> tuple[Axis, int] | None:
        """Return the axis and the row of an id; None if it is not a coordinate's."""
        for axis in Axis:
            ids = self.ids(axis)
            if token_id in ids:
                return axis, token_id - ids.start
        return None

    def is_text(self, ids: Any) -> Any:
        """Return a mask of the text ids in an array of any library."""
        return ids < self.text_rows

    def is_time(self, ids: Any) -> Any:
        """Return a mask of the time ids in an array of any library."""
        times = self.ids(Axis.TIME)
        return (ids >= times.start) & (ids < times.stop)

    def is_space(self, ids: Any) -> Any:
        """Return a mask of the height and width ids in an array of any library."""
        return ids >= self.offset(Axis.HEIGHT)

    def value(self, axis: Axis, row: int) -> float:
        """Return the value in [0, 1] of a row."""
        return row / max(1, self.rows(axis) - 1)

    def nearest_row(self, axis: Axis, value: float) -> int:
        """Return the row nearest to a value in [0, 1]; the higher one if two are equally near."""
        return math.floor(value * (self.rows(axis) - 1) + 0.5)

    def tokens(self) -> Iterator[str]:
        """Yield all coordinate tokens in the order of their ids."""
        for axis in Axis:
            for row in range(self.rows(axis)):
                yield axis.token(row)
