"""A run's metrics: JSON lines while it runs, one sorted parquet table at its end.

A record is one line: the environment step, and for every lane (a seed under a setting) the value
of every metric. The table is long: one row for each seed, setting, step and metric. Its rows are
sorted, so the table does not depend on how lanes were grouped, and equal metrics give equal bytes.
A value that is not known yet (no episode has ended) is NaN and stays in the table.

A line ends with its digest, which covers the digest of the line before: none is changed, moved or
taken out from between others without notice. Lines of older runs cover less, or have none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl.core.arguments import check_path
from jaxrl.core.files import parse_json, read_bytes, read_json, read_text, refuse_links

if TYPE_CHECKING:
    import pyarrow

_LINES = "metrics.jsonl"
_TABLE = "metrics.parquet"
TAIL = len(f'{"":64}"}}\n')  # of a line: its digest, and what ends it
_COLUMNS = {"seed": "int64", "setting": None, "step": "int64", "metric": None, "value": "double"}
_ENTRIES = {"step", "seeds", "settings", "metrics"}  # of a line, beside digests


def load_metrics(path: str | Path) -> pyarrow.Table:
    """All metrics of a run, finished or not.

    Args:
        path: the run's folder.

    Returns:
        Table with columns `seed` (int64), `setting` (string), `step` (int64), `metric` (string)
        and `value` (float64), sorted by metric, setting, seed and step. A last line that a kill
        cut short is left out.

    Raises:
        FileNotFoundError: the folder has no metrics.
        ValueError: a line is not a record, the table is not as it was written, or something in
            the folder is a link.
    """
    import pyarrow
    import pyarrow.parquet

    check_path("path", path)
    refuse_links(Path(path))
    lines, table = Path(path) / _LINES, Path(path) / _TABLE
    # Bits flipped in the description of a table may give another table.
    if table.exists() and (_stated(table) is not None or not lines.exists()):
        content = vouched_for(table)
        try:
            found = pyarrow.parquet.read_table(
                pyarrow.BufferReader(content), page_checksum_verification=True
            )
        except (OSError, pyarrow.ArrowException) as error:
            raise _damage(table) from error
        kinds = {field.name: str(field.type) for field in found.schema}
        if any(kind not in (None, kinds.get(name)) for name, kind in _COLUMNS.items()):
            raise _damage(table)
        return found
    if not lines.exists():
        raise FileNotFoundError(f"{path} has no metrics: is it a run's folder?")
    return table_of_lines(lines)


def read_status(path: str | Path) -> dict[str, Any]:
    """`status.json` as it was written; `{}` where it is missing or was changed since.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        status = read_json(Path(path) / "status.json")
        stated, files = status.get("sha256"), status.get("files", {})
        content = {name: value for name, value in status.items() if name != "sha256"}
        as_written = stated in (None, digest_of(content)) and isinstance(files, dict)
    except (ValueError, RecursionError):
        return {}
    return status if as_written else {}


def _stated(file: Path) -> str | None:
    """The digest of a file of a run's end, by the status beside it; "" of a run from before there
    were digests, None where nothing vouches for the file."""
    status = read_status(file.parent)
    older = status and "sha256" not in status
    return status.get("files", {}).get(file.name, "" if older else None)


def vouched_for(file: Path) -> bytes:
    """What stands in a file of a run's end, if it is as it was written then.

    Raises:
        ValueError: it is not, or nothing says so.
    """
    content = read_bytes(file, most=math.inf)
    if _stated(file) not in ("", hashlib.sha256(content).hexdigest()):
        raise _damage(file)
    return content


def digest_of(content: Mapping[str, Any]) -> str:
    """The sha256 of JSON data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damage(file: Path) -> ValueError:
    return ValueError(
        f"{file} is damaged, or its run's status.json is: `jaxrl train --resume {file.parent}` "
        "mends them."
    )


def curves_of(
    table: pyarrow.Table, metric: str
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One metric of a table as a curve for each setting, by the setting's name.

    Returns:
        environment steps `[R]`, seeds `[num_seeds]`, and values `[num_seeds, R]`, NaN where there
        is none.

    Raises:
        KeyError: the table has no such metric; the message lists those it has.
    """
    import pyarrow.compute

    known = sorted(table["metric"].unique().to_pylist())
    if metric not in known:
        raise KeyError(f"no metric {metric!r}; known: {', '.join(known) or 'none'}.")
    # pyarrow makes `equal` when it is imported, where no type checker sees it.
    table = table.filter(pyarrow.compute.equal(table["metric"], metric))  # pyright: ignore[reportAttributeAccessIssue]
    settings = np.asarray(table["setting"].to_pylist())
    curves = {}
    for setting in sorted(set(settings.tolist())):
        rows = settings == setting
        seeds, lane = np.unique(table["seed"].to_numpy()[rows], return_inverse=True)
        steps, column = np.unique(table["step"].to_numpy()[rows], return_inverse=True)
        values = np.full((len(seeds), len(steps)), np.nan)
        values[lane, column] = table["value"].to_numpy()[rows]
        curves[setting] = (steps, seeds, values)
    return curves


def lines_of(records: Iterable[Mapping[str, Any]], end: str = "") -> Iterator[str]:
    """Records, `{"step": int, "seeds": [L], "settings": [L], "metrics": {name: [L]}}` with L lanes
    each, as lines that follow one another.

    Args:
        records: `settings` are names and may be left out: then they are "".
        end: the last `TAIL` characters of what they are written after.

    Raises:
        ValueError: a metric has not one value for each lane.
    """
    for record in records:
        line = {**_plain(record), "after": end[:64]}
        end = digest_of(line)
        yield json.dumps({**line, "sha256": end}) + "\n"


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    seeds = [int(seed) for seed in record["seeds"]]
    settings = [str(setting) for setting in record.get("settings") or [""] * len(seeds)]
    metrics = {}
    for name, values in record["metrics"].items():
        values = np.asarray(values, np.float64)
        if values.shape != (len(seeds),) or len(settings) != len(seeds):
            raise ValueError(
                f"metric {name!r} at step {record['step']} has shape {values.shape}, settings "
                f"{len(settings)}: expected one for each of {len(seeds)} seeds."
            )
        metrics[name] = values.tolist()
    return {"step": int(record["step"]), "seeds": seeds, "settings": settings, "metrics": metrics}


def table_of_lines(file: Path) -> pyarrow.Table:
    """The long table of a file of records; an empty one when there is no file."""
    import pyarrow

    parts = []  # of each record: metric, setting, seed, step, value, of all its rows
    metric_codes, setting_codes, before = {}, {}, ""
    text = read_text(file, most=math.inf) if file.exists() else ""
    for number, line in enumerate(text.split("\n")[:-1], start=1):  # the last one a kill may cut
        record, before = _record(line, f"{file}, line {number}", before)
        shape = (len(record["metrics"]), len(record["seeds"]))
        metric = [metric_codes.setdefault(name, len(metric_codes)) for name in record["metrics"]]
        setting = [setting_codes.setdefault(n, len(setting_codes)) for n in record["settings"]]
        rows = (np.asarray(metric)[:, None], setting, record["seeds"], record["step"])
        keys = [np.broadcast_to(np.asarray(row, np.int64), shape).ravel() for row in rows]
        values = np.asarray(list(record["metrics"].values()), np.float64)
        parts.append((*keys, values.reshape(-1)))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    metric, setting, seed, step, value = columns or [np.zeros(0, np.int64)] * 4 + [np.zeros(0)]
    metric, metric_names = _sorted_codes(metric, metric_codes)
    setting, setting_names = _sorted_codes(setting, setting_codes)
    order = np.lexsort((step, seed, setting, metric))
    settings = _named(setting[order], setting_names)
    metrics = _named(metric[order], metric_names)
    return pyarrow.table([seed[order], settings, step[order], metrics, value[order]], [*_COLUMNS])


def _record(line: str, name: str, before: str | None) -> tuple[dict[str, Any], str | None]:
    """The record in a line and its digest, given that of the line `before`. Lines from before they
    had digests are taken by their form."""
    try:
        record = parse_json(line, name)
        stated, step = record.pop("sha256", None), np.asarray(record["step"])
        rows = [np.asarray(row) for row in (record["seeds"], *record["metrics"].values())]
        good = set(record) - {"after"} == _ENTRIES and step.ndim == 0 and step.dtype.kind == "i"
        good &= all(row.shape == rows[0].shape and row.dtype.kind in "if" for row in rows)
        good &= rows[0].ndim == 1 and (rows[0].dtype.kind == "i" or not rows[0].size)
        good &= [type(name) for name in record["settings"]] == [str] * len(rows[0])
        good &= stated in (None, digest_of(record)) and record.get("after", before) == before
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        good = False
    if not good:
        raise ValueError(
            f"{name} is not a record, not as it was written, or not the next one: "
            "`jaxrl train --resume` writes it anew."
        )
    return record, stated


def _sorted_codes(column: np.ndarray, codes: dict[str, int]) -> tuple[np.ndarray, list[str]]:
    """Codes given in order of appearance, turned into those of the sorted names."""
    names, rank = np.unique(np.array([*codes], object), return_inverse=True)
    return rank[column], names.tolist()


def _named(codes: np.ndarray, names: list[str]) -> pyarrow.Array:
    """A column of repeated names, kept as codes: a sweep's table has millions of rows."""
    import pyarrow

    return pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(codes, pyarrow.int32()), pyarrow.array(names, pyarrow.string())
    )
