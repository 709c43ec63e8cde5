"""Tables of figures for the terminal, grouped by task and convention."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from llava_st_ros.errors import printable_line

if TYPE_CHECKING:
    from rich.table import Table


class Figure(Protocol):
    """A figure of a run, or a difference of two."""

    @property
    def task(self) -> str: ...

    @property
    def metric(self) -> str: ...

    @property
    def convention(self) -> str: ...

    @property
    def unit(self) -> str: ...


F = TypeVar("F", bound=Figure)


def text_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """Return a table for 80 columns: ``left`` columns fold, ``right`` ones are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def add_row(table: Table, *texts: str, style: str = "") -> None:
    """Add a row of texts from data: no markup, and nothing that a terminal acts on."""
    from rich.text import Text

    table.add_row(*(Text(printable_line(text)) for text in texts), style=style or None)


def grouped(figures: Iterable[F]) -> dict[str, list[F]]:
    """Return figures by their task and convention, in the order of first appearance."""
    groups: dict[str, list[F]] = {}
    for figure in figures:
        name = ", ".join(filter(None, (figure.task, figure.convention)))
        groups.setdefault(name, []).append(figure)
    return groups


def name_of(figure: Figure) -> str:
    """Return a figure's metric with its unit."""
    return figure.metric + (f" ({figure.unit})" if figure.unit else "")


def number(value: float) -> str:
    """Return a number with four digits; "-" if it is undefined."""
    return "-" if math.isnan(value) else f"{value:.4g}"


def signed(value: float) -> str:
    """Return a difference with its sign and three digits; "-" if it is undefined."""
    return "-" if math.isnan(value) else f"{value:+.3g}"
