"""A learned rule as one file: its numbers, its card, and nothing that runs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import importlib
import importlib.metadata
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.files import read_bytes, replacing
from jaxrl.core.settings import near_names
from jaxrl.core.types import is_traced
from jaxrl.training.run_config import plain

_DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
}
_ARRAYS = {"array": jax.Array, "numpy": np.ndarray, "scalar": np.generic}
_HOLDERS = ("agents.presets", "rules", "meta.distilling", "meta.numbers")  # of what is saved
_WHERE_FLOAT64 = "load it inside `with jax.enable_x64(True):`"
_FORMAT = 1
_MARK = b"sha256:"
_TAIL = len(_MARK) + 64
_MOST_BYTES = 2**31  # of a file that is read
_DAMAGED = (  # what JSON, `zipfile` and numpy raise; of the last ones, `zipfile` has all its own:
    # NotImplementedError for an unknown compression or version, RuntimeError for an encrypted entry
    *(KeyError, TypeError, ValueError, AttributeError, IndexError, EOFError, RecursionError),
    *(zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, MemoryError),
)
_FETCH = "it was damaged or cut short; fetch it again, or save the rule anew."


class RuleFileError(ValueError):
    """A rule that cannot be written, or a file that cannot be read; the message says why."""


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

    @classmethod
    def read(cls, path: str | Path) -> Card:
        """The card of a file, which the rule need not be loadable for.

        Raises:
            FileNotFoundError: there is no such file.
            RuleFileError: the file is damaged or none of ours.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        with _reading(path):
            _, card, _ = _unpack(path)
            return cls(**{name: value for name, value in card.items() if name in known})

    def __str__(self) -> str:
        pairs = [("learned by", self.learned_by), ("tasks", self.tasks), *self.metrics.items()]
        pairs += [("notes", self.notes), ("saved", self.date), *self.versions.items()]
        lines = [f"{name}: {value}" for name, value in pairs if value not in ("", None)]
        return "\n".join([self.summary, *lines])


def save(
    rule: Any, path: str | Path, *, card: Card, overwrite: bool = False, parts: Iterable[type] = ()
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
        >>> Card.read(file).summary
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
    with _reading(path):
        manifest, _, arrays = _unpack(path)
        return from_plain(manifest["rule"], arrays, known)


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
            put(f"arrays/{index:04d}.npy", part.getvalue())
        archive.comment = _MARK + b"0" * 64
    body = stream.getvalue()[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def _unpack(path: str | Path) -> tuple[dict, dict, list[np.ndarray]]:
    """Manifest, card and arrays of a file whose every byte is as it was written."""
    content = read_bytes(Path(path), _MOST_BYTES)
    if not content.startswith(b"PK"):
        raise RuleFileError("it is not a rule file: give one that `meta.save` wrote.")
    if content[-_TAIL:-64] != _MARK:
        raise RuleFileError(f"it does not end as a rule file does: {_FETCH}")
    # Before anything is parsed.
    if hashlib.sha256(content[:-64]).hexdigest().encode() != content[-64:]:
        raise RuleFileError(f"it does not match its own digest: {_FETCH}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("compressed entries")
        manifest = json.loads(archive.read("rule.json"))
        if manifest["format"] != _FORMAT:
            raise RuleFileError(
                f"it has format {manifest['format']}, and this version reads format {_FORMAT}: "
                "upgrade jaxrl."
            )
        arrays = []
        for index in range(int(manifest["num_arrays"])):
            with archive.open(f"arrays/{index:04d}.npy") as stream:
                arrays.append(np.lib.format.read_array(stream, allow_pickle=False))
        return manifest, json.loads(archive.read("card.json")), arrays


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong with a file is told in one sentence, with its path."""
    try:
        yield
    except RuleFileError as error:
        raise RuleFileError(f"{path} cannot be read: {error}") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no rule file {path}.") from None
    except _DAMAGED as error:
        raise RuleFileError(
            f"{path} is not as `save` writes a rule file ({error!r}): {_FETCH}"
        ) from error


# ---- rules as JSON and arrays -------------------------------------------------------------------


def known_parts(extra: Iterable[type] = ()) -> dict[str, type]:
    """Every struct that a file may name: those of this package, and `extra`.

    Args:
        extra: structs of your own.

    Raises:
        RuleFileError: one of `extra` is no struct, or has the name of another one.

    Example:
        >>> from jaxrl.core import Linear
        >>> known_parts()["Linear"] is Linear
        True
    """
    for holder in _HOLDERS:
        importlib.import_module(f"jaxrl.{holder}")
    found = dict(struct.STRUCTS)
    for part in extra:
        if not (isinstance(part, type) and dataclasses.is_dataclass(part)):
            raise RuleFileError(f"{part!r} in parts is not a struct: give classes.")
        if found.setdefault(part.__name__, part) is not part:
            raise RuleFileError(f"{part.__name__} in parts has the name of another: rename it.")
    return found


def to_plain(rule: Any, parts: Mapping[str, type]) -> tuple[Any, list[np.ndarray]]:
    """A rule as JSON and the arrays that it points at, by position.

    Raises:
        RuleFileError: something in it is neither numbers, text nor a registered struct; the
            message has its path.
    """
    arrays: list[np.ndarray] = []

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, jax.Array) and is_traced(value):
            raise RuleFileError(f"{path} is being traced: save outside of jit, vmap and grad.")
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise RuleFileError(f"{path} is a PRNG key: a rule file holds no randomness.")
        kind = next((kind for kind, of in _ARRAYS.items() if isinstance(value, of)), None)
        if kind is not None:
            data = np.asarray(value)
            if data.dtype.name not in _DTYPES:
                raise RuleFileError(f"{path} holds {data.dtype}: a rule file holds numbers only.")
            # numpy's file format does not know bfloat16.
            arrays.append(data.view("uint16") if data.dtype.name == "bfloat16" else data)
            return {kind: len(arrays) - 1, "dtype": data.dtype.name, "shape": list(data.shape)}
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) in (tuple, list):
            entries = [plain(entry, f"{path}[{i}]") for i, entry in enumerate(value)]
            return {type(value).__name__: entries}
        if type(value) is dict:
            for key in value:
                if type(key) is not str:
                    raise RuleFileError(f"{path} has the key {key!r}: keys must be text.")
            return {"dict": [[key, plain(entry, f"{path}.{key}")] for key, entry in value.items()]}
        name = type(value).__name__
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if parts.get(name) is not type(value):
                raise RuleFileError(
                    f"{path} is a {name}, which is not registered; "
                    f"{near_names(name, list(parts))} Give structs of your own in "
                    f"`parts=[{name}]`, to save and to load."
                )
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            fields = {field: plain(entry, f"{path}.{field}") for field, entry in fields.items()}
            return {"struct": name, "fields": fields}
        if callable(value):
            raise RuleFileError(
                f"{path} is a function, and loading a rule file runs no code. Write the function "
                "as a struct with `__call__` and give it in `parts`, or save "
                "`meta.distil(rule)` in its place."
            )
        raise RuleFileError(f"{path} is a {name}, which a rule file cannot hold.")

    return plain(rule, type(rule).__name__), arrays


def from_plain(node: Any, arrays: list[np.ndarray], parts: Mapping[str, type]) -> Any:
    """The rule that `to_plain` described.

    Raises:
        RuleFileError: an unknown struct or field, or an array other than described.
    """
    if isinstance(node, list):
        raise RuleFileError("it holds a list where a value belongs: it is not from `save`.")
    if not isinstance(node, dict):
        return node

    def inner(entry: Any) -> Any:
        return from_plain(entry, arrays, parts)

    readers: dict[str, Callable[[Any], Any]] = {
        "struct": lambda name: _struct(name, node["fields"], inner, parts),
        "dict": lambda rows: {name: inner(entry) for name, entry in rows},
        "tuple": lambda rows: tuple(map(inner, rows)),
        "list": lambda rows: list(map(inner, rows)),
        "float": float,
    }
    readers |= dict.fromkeys(_ARRAYS, lambda index: _array(node, index, arrays[index]))
    for kind, read in readers.items():
        if kind in node:
            return read(node[kind])
    raise RuleFileError(f"it holds the unknown entry {sorted(node)}: upgrade jaxrl.")


def _array(node: dict[str, Any], index: int, data: np.ndarray) -> Any:
    """An array or scalar of the type that its entry says."""
    if node["dtype"] == "bfloat16" and data.dtype.name == "uint16":
        data = data.view(jnp.bfloat16)
    if (data.dtype.name, list(data.shape)) != (node["dtype"], node["shape"]):
        raise RuleFileError(
            f"array {index} is {data.dtype.name}{list(data.shape)}, and "
            f"{node['dtype']}{node['shape']} was expected: it was altered; fetch it again."
        )
    if "array" not in node:
        return data if "numpy" in node else data[()]
    found = jnp.asarray(data)
    if found.dtype != data.dtype:
        raise RuleFileError(f"it holds {data.dtype.name} numbers: {_WHERE_FLOAT64}.")
    return found


def _struct(name: str, fields: dict[str, Any], inner: Callable, parts: Mapping[str, type]) -> Any:
    if name not in parts:
        raise RuleFileError(
            f"it names {name!r}, which is not registered here; {near_names(name, list(parts))} "
            "Give a struct of your own in `parts`, or upgrade jaxrl."
        )
    known = {field.name: field for field in dataclasses.fields(parts[name])}
    for strange in fields.keys() - known.keys():
        raise RuleFileError(
            f"its {name} has {strange!r}, unknown to this version; "
            f"{near_names(strange, list(known))} Load it with the version on its card."
        )
    for missing in known.keys() - fields.keys():
        if known[missing].default is known[missing].default_factory is dataclasses.MISSING:
            raise RuleFileError(
                f"its {name} lacks {missing!r}: load it with the version on its card."
            )
    return parts[name](**{field: inner(entry) for field, entry in fields.items()})
