"""A learned rule as one file: its numbers, its card, and nothing that runs."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.core.files import replacing
from jaxrl.meta.rule_parts import RuleFileError, from_plain, known_parts, to_plain
from jaxrl.training.run_config import plain

_FORMAT = 1
_MARK = b"sha256:"
_TAIL = len(_MARK) + 64
_MOST_BYTES = 2**31  # of a file that is read
_FETCH = "it was damaged or cut short; fetch it again, or save the rule anew."


@dataclasses.dataclass(frozen=True)
class Card:
    """What a rule is and where it comes from.

    Example:
        >>> print(Card("drift for sparse rewards", tasks="grids", metrics={"final_return": 0.9}))
        drift for sparse rewards
        tasks: grids
        final_return: 0.9
    """

    summary: str  # what it is, in a sentence
    learned_by: str = ""  # the outer loop and its settings
    tasks: str = ""  # what it was learned on
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # numbers, by name
    notes: str = ""  # limits, licence, whatever else a user should know
    date: str = ""  # of saving, ISO 8601; filled in by `save`
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)  # filled in by `save`

    def __str__(self) -> str:
        pairs = [("learned by", self.learned_by), ("tasks", self.tasks), *self.metrics.items()]
        pairs += [("notes", self.notes), ("saved", self.date), *self.versions.items()]
        lines = [f"{name}: {value}" for name, value in pairs if value not in ("", None)]
        return "\n".join([self.summary, *lines])


def save(
    rule: Any,
    path: str | Path,
    *,
    card: Card,
    overwrite: bool = False,
    parts: Iterable[type] = (),
) -> Path:
    """Write a rule and its card as one file that `load` gives back bit for bit.

    The file is a zip archive of JSON and numpy arrays, which other programs can read too. It names
    structs by registered names, never by import paths, and ends with the sha256 of everything
    before. It appears whole or not at all.

    Args:
        rule: any struct of `jaxrl.rules`, an optimiser, a schedule, a functional, a whole
            `ActorCriticAgent`, a `Tuned`, or dicts, tuples and lists of these and of arrays.
        path: of the file; its folder is made.
        card: what the rule is.
        overwrite: whether an existing file may be replaced.
        parts: structs of your own in the rule, to be given to `load` too.

    Returns:
        `path`.

    Raises:
        FileExistsError: the file exists.
        RuleFileError: the rule holds functions, keys, or structs that are not registered.

    Example:
        >>> import jax, tempfile
        >>> from jaxrl.rules import drift
        >>> file = tempfile.mkdtemp() + "/lpo.rule"
        >>> rule = drift(jax.random.key(0), num_hidden=4)
        >>> _ = save(rule, file, card=Card("a drift that nothing was learned for"))
        >>> loaded = load(file)
        >>> bool((loaded.drift.weights["hidden"] == rule.drift.weights["hidden"]).all())
        True
        >>> read_card(file).summary
        'a drift that nothing was learned for'
    """
    path = Path(path)
    node, arrays = to_plain(rule, known_parts(parts))
    versions = {name: importlib.metadata.version(name) for name in ("jaxrl", "jax", "numpy")}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    card = dataclasses.replace(card, date=card.date or now, versions={**versions, **card.versions})
    described = plain({f.name: getattr(card, f.name) for f in dataclasses.fields(card)}, "card")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: give another path, or overwrite=True.")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _pack({"format": _FORMAT, "rule": node, "num_arrays": len(arrays)}, described, arrays)
    with replacing(path) as stream:
        stream.write(content)
    return path


def load(path: str | Path, *, parts: Iterable[type] = ()) -> Any:
    """The rule in a file, with every number, static setting and type as it was saved.

    No code of the file is run and nothing is imported for it. Settings that its structs have got
    since then take their defaults.

    Args:
        path: of the file.
        parts: the structs of your own that it was saved with.

    Raises:
        FileNotFoundError: no such file.
        RuleFileError: the file is damaged, no rule file, of a later format, or names what is not
            registered here.

    Numerics:
        64-bit numbers of jax arrays need `jax.enable_x64(True)` when loaded; they are refused
        rather than rounded. Weakly typed arrays come back strongly typed.
    """
    known = known_parts(parts)
    manifest, _, arrays = _unpack(path)
    try:
        return from_plain(manifest["rule"], arrays, known)
    except RuleFileError as error:
        raise RuleFileError(f"{path} cannot be loaded: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise RuleFileError(f"{path} is not as `save` writes it ({error!r}): {_FETCH}") from error


def read_card(path: str | Path) -> Card:
    """The card of a rule file; the file is checked as by `load`, the rule is not built.

    Raises:
        FileNotFoundError: no such file.
        RuleFileError: the file is damaged, no rule file, or of a later format.
    """
    _, card, _ = _unpack(path)
    known = {f.name for f in dataclasses.fields(Card)}
    return Card(**{name: value for name, value in card.items() if name in known})


def _pack(manifest: dict, card: dict, arrays: list[np.ndarray]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:

        def put(name: str, content: bytes) -> None:
            # Always the same time: equal rules and cards give equal bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)

        put("card.json", json.dumps(card, indent=1).encode())
        put("rule.json", json.dumps(manifest, indent=1).encode())
        for index, data in enumerate(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.asarray(data, order="C"), allow_pickle=False)
            put(_array_name(index), part.getvalue())
        archive.comment = _MARK + b"0" * 64
    body = stream.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def _unpack(path: str | Path) -> tuple[dict, dict, list[np.ndarray]]:
    """Manifest, card and arrays of a file whose every byte is as it was written."""
    if not isinstance(path, (str, os.PathLike)) or Path(path).is_dir():
        raise RuleFileError(f"{path} is no rule file: give one that `meta.save` wrote.")
    try:
        if os.path.getsize(path) > _MOST_BYTES:
            raise RuleFileError(f"{path} is larger than any rule file, {_MOST_BYTES} bytes.")
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no rule file {path}.") from None
    if not content.startswith(b"PK"):
        raise RuleFileError(f"{path} is not a rule file: give one that `meta.save` wrote.")
    if content[-_TAIL:-64] != _MARK:
        raise RuleFileError(f"{path} does not end as a rule file does: {_FETCH}")
    # Before anything is parsed.
    if hashlib.sha256(content[:-64]).hexdigest().encode() != content[-64:]:
        raise RuleFileError(f"{path} does not match its own digest: {_FETCH}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise ValueError("compressed entries")
            manifest = json.loads(archive.read("rule.json"))
            if manifest["format"] != _FORMAT:
                raise RuleFileError(
                    f"{path} has format {manifest['format']}, and this version reads format "
                    f"{_FORMAT}: upgrade jaxrl."
                )
            card = json.loads(archive.read("card.json"))
            arrays = []
            for index in range(int(manifest["num_arrays"])):
                with archive.open(_array_name(index)) as stream:
                    data = np.lib.format.read_array(stream, allow_pickle=False)
                arrays.append(data)
    except RuleFileError:
        raise
    except (
        *(KeyError, TypeError, ValueError, AttributeError, IndexError, EOFError, RecursionError),
        *(zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, MemoryError),
    ) as error:
        raise RuleFileError(f"{path} is not as `save` writes it ({error!r}): {_FETCH}") from error
    return manifest, card, arrays


def _array_name(index: int) -> str:
    return f"arrays/{index:04d}.npy"
