"""What the commands print: lines and tables, on a terminal or into a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_FILE_WIDTH = 140


def make_console() -> Console:
    """Standard output; wide where it is not a terminal, so that no table is broken there."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=_FILE_WIDTH)


def say(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no breaks."""
    console.print(text, markup=False, soft_wrap=True)


def make_table(columns: Sequence[str], numeric: Sequence[str] = (), caption: str = "") -> Table:
    """An empty table; `numeric` columns are right-justified."""
    table = Table(caption=caption or None, caption_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    return table


def add_row(table: Table, *cells: Any) -> None:
    """Add a row of plain text, numbers shortened."""
    from rich.text import Text

    table.add_row(*(Text(cell if isinstance(cell, str) else number(cell)) for cell in cells))


def number(value: float | None) -> str:
    """Four digits of a number; a dash for none."""
    if value is None or math.isnan(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if 10 <= abs(value) < 1e9 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
