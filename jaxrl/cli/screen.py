"""What the commands print: lines and tables, on a terminal or into a file; and plain data."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


@functools.cache
def screen() -> Console:
    """Standard output; 140 wide where it is not a terminal, so that no table is broken there."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def say(text: str) -> None:
    """Print a line as it is: no markup, no breaks."""
    screen().print(text, markup=False, soft_wrap=True)


def show(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numeric: Collection[str] = (),
    title: str = "",
    caption: str = "",
    section: int = 0,
) -> None:
    """Print a table of texts and numbers; `numeric` columns are right-justified, a line is drawn
    after the first `section` rows."""
    table = Table(
        title=title or None, caption=caption or None, caption_justify="left", header_style="bold"
    )
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for count, row in enumerate(rows, start=1):
        cells = (Text(cell if isinstance(cell, str) else number(cell)) for cell in row)
        table.add_row(*cells, end_section=count == section)
    screen().print(table)


def number(value: float | None) -> str:
    """Four digits of a number; a dash for none."""
    if value is None or math.isnan(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if 10 <= abs(value) < 1e9 else f"{value:.4g}"


def interval(low: float | None, high: float | None) -> str:
    """`[low, high]`; an open end where no bound is known, a dash where none is."""
    if low is None and high is None:
        return "-"
    ends = (-math.inf if low is None else low), (math.inf if high is None else high)
    return f"[{number(ends[0])}, {number(ends[1])}]"


def as_json(content: Any) -> Any:
    """`content` as it is read back from a file of JSON, which has no NaN, no infinity (None
    stands for both) and no numbers of NumPy."""
    return json.loads(json.dumps(content, default=float), parse_constant=lambda name: None)
