"""What one checkpoint holds: `state/`, written by orbax, and `DIGESTS.json`, written last.

Orbax by itself loads array data with a flipped bit without a word and casts dtypes in silence, so
`DIGESTS.json` states the sha256 of every file (checked before a byte is parsed) and the path,
dtype, shape and sha256 of every leaf (checked after). It also holds the small `extra` and its own
sha256. Nothing is unpickled: loading a checkpoint runs no code from it.

Orbax is imported where it is used: it takes a third of a second, which every command would feel.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.files import parse_json, read_bytes
from jaxrl.core.settings import moved_names
from jaxrl.core.types import PyTree
from jaxrl.training.run_config import differences, shortened

_DIGESTS = "DIGESTS.json"
_STATE = "state"
_FORMAT = 1


class DamagedError(Exception):
    """Why a checkpoint cannot be trusted: it is not what was written."""


def encode(tree: PyTree) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Describe every leaf, and bring those that hold numbers to the host.

    Returns:
        One description a leaf (path, dtype, shape, stored dtype and shape, digest), and the
        arrays under the leaves' positions. Typed PRNG keys become their key data.

    Raises:
        TypeError: a leaf is not made of numbers.
        ValueError: a leaf is spread over several hosts.
    """
    leaves, arrays = [], {}
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    for index, (where, leaf) in enumerate(flat):
        path = jax.tree_util.keystr(where) or "(root)"
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            raise ValueError(f"leaf {path} is spread over several hosts: gather it before saving.")
        impl = str(jax.random.key_impl(leaf)) if _is_key(leaf) else ""
        data = np.asarray(jax.random.key_data(leaf) if impl else leaf)
        if data.dtype.kind in "OSUMm":
            raise TypeError(
                f"leaf {path} of type {type(leaf).__name__} cannot be stored: a checkpoint holds "
                "arrays of numbers, PRNG keys and Python numbers."
            )
        dtype, shape = _leaf_type(leaf)
        stored = {"stored_dtype": data.dtype.name, "stored_shape": list(data.shape)}
        kind = {"path": path, "dtype": dtype, "shape": shape, "key_impl": impl}
        leaves.append({**kind, **stored, "sha256": _digest(data)})
        if data.size:  # orbax refuses empty arrays; their description says all there is
            arrays[_array_name(index)] = data
    return leaves, arrays


def write(
    path: Path,
    step: int,
    leaves: list[dict[str, Any]],
    arrays: dict[str, np.ndarray],
    extra: dict[str, Any],
) -> None:
    """Fill the empty folder `path` with a checkpoint and flush it to disk, `DIGESTS.json` last."""
    if arrays:
        import orbax.checkpoint as ocp

        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(path / _STATE, args=ocp.args.PyTreeSave(arrays))
    manifest = {
        "format": _FORMAT,
        "step": step,
        "extra": extra,
        "leaves": leaves,
        "files": {str(file.relative_to(path)): _file_digest(file) for file in _files(path)},
    }
    for file in _files(path):
        flush(file)
    digests = path / _DIGESTS
    digests.write_text(json.dumps({**manifest, "sha256": _manifest_digest(manifest)}, indent=1))
    flush(digests)
    for folder, _, _ in os.walk(path, topdown=False):
        flush(Path(folder))


def verify(path: Path, step: int) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file is as it was written.

    Raises:
        DamagedError: a file is missing, cut, changed or too many.
        OSError: a file is there and cannot be read, which says nothing of what it holds.
    """
    try:
        manifest = parse_json(read_bytes(path / _DIGESTS), _DIGESTS)
        stated = manifest.pop("sha256")
        if stated != _manifest_digest(manifest):
            raise DamagedError(f"{_DIGESTS} does not match its own digest")
        if manifest["format"] != _FORMAT:
            raise DamagedError(f"format {manifest['format']} is unknown to this version")
        if manifest["step"] != step:
            raise DamagedError(f"it holds step {manifest['step']}")
        found = {str(f.relative_to(path)): f for f in _files(path) if f.name != _DIGESTS}
        if set(found) != set(manifest["files"]):
            raise DamagedError("files are missing or were added")
        for name, digest in manifest["files"].items():
            if found[name].stat().st_size != digest["bytes"]:
                raise DamagedError(f"{name} has another size than when it was written")
            if _file_digest(found[name]) != digest:
                raise DamagedError(f"{name} does not match its digest")
    except FileNotFoundError as error:
        raise DamagedError(f"{Path(error.filename).name} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{_DIGESTS} is garbled: {one_line(error)}") from error
    return manifest


def read(path: Path, manifest: dict[str, Any], template: PyTree) -> PyTree:
    """The tree of a verified checkpoint, in the forms of `template`.

    Raises:
        ValueError: paths, dtypes or shapes differ from those of `template`; the message names
            them, and nothing was loaded.
        DamagedError: the arrays do not match the leaves' digests.
        OSError: they cannot be read, though every file is as it was written.
    """
    expected, structure = jax.tree_util.tree_flatten_with_path(template)
    leaves = manifest["leaves"]
    kinds = [(jax.tree_util.keystr(where) or "(root)", *_leaf_type(x)) for where, x in expected]
    paths = [name for name, _, _ in kinds]
    named = moved_names({leaf["path"]: index for index, leaf in enumerate(leaves)}, paths)
    # An estimate that every agent of one kind had, and only those of average rewards used.
    named = {p: index for p, index in named.items() if p in paths or not p.endswith(".gain")}
    stored = {path: f"{leaves[i]['dtype']}{leaves[i]['shape']}" for path, i in named.items()}
    wanted = {name: f"{dtype}{shape}" for name, dtype, shape in kinds}
    if different := differences(stored, wanted, ("checkpoint", "expected")):
        raise ValueError(
            f"checkpoint {path} holds another state than is expected here: resume with the "
            "configuration it was saved under.\n  " + "\n  ".join(shortened(different))
        )
    names = {_array_name(i): 0 for i, leaf in enumerate(leaves) if 0 not in leaf["stored_shape"]}
    arrays = {}
    if names:
        import orbax.checkpoint as ocp

        as_numpy = dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray))
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                arrays = checkpointer.restore(
                    path / _STATE, args=ocp.args.PyTreeRestore(item=names, restore_args=as_numpy)
                )
        except Exception as error:  # orbax raises of all kinds
            raise OSError(f"its arrays cannot be read ({one_line(error)})") from error
    decoded = []
    for path_here, (_, like) in zip(paths, expected, strict=True):
        leaf = leaves[index := named[path_here]]
        if _array_name(index) in arrays:
            data = np.asarray(arrays[_array_name(index)])
        else:
            data = np.zeros(leaf["stored_shape"], np.dtype(leaf["stored_dtype"]))
        if _digest(data) != leaf["sha256"]:
            raise DamagedError(f"leaf {leaf['path']} does not match its digest")
        decoded.append(_decode(leaf, data, like))
    return jax.tree.unflatten(structure, decoded)


def flush(path: Path) -> None:
    """Have the operating system put a file, or a folder's entries, on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def one_line(error: Exception) -> str:
    """An exception as one short line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _decode(leaf: dict[str, Any], data: np.ndarray, like: Any) -> Any:
    """Stored numbers in the form of the template's leaf `like`."""
    if isinstance(like, np.generic):  # first: a numpy float64 is a Python float too
        return data[()]
    if isinstance(like, (bool, int, float, complex)):
        return data.item()
    if isinstance(like, np.ndarray):
        return np.array(data)
    # An uncommitted template gives an uncommitted array: a committed one would compile the loop
    # again. No aliasing of the host's memory, because the loop donates these buffers.
    sharding = like.sharding if getattr(like, "committed", True) else None
    if leaf["key_impl"]:
        key_data = jax.device_put(data, may_alias=False)
        key = jax.random.wrap_key_data(key_data, impl=leaf["key_impl"])
        return key if sharding is None else jax.device_put(key, sharding)
    return jax.device_put(data, sharding, may_alias=False)


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _leaf_type(leaf: Any) -> tuple[str, list[int]]:
    """Dtype and shape of a leaf; of PRNG keys those of the keys, not of their data."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        dtype = np.asarray(leaf).dtype
    return str(dtype), list(np.shape(leaf))


def _array_name(index: int) -> str:
    return f"{index:06d}"


def _digest(data: np.ndarray) -> str:
    """sha256 of dtype, shape and bytes."""
    digest = hashlib.sha256(f"{data.dtype.name}{data.shape}".encode())
    digest.update(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _manifest_digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _file_digest(file: Path) -> dict[str, Any]:
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _files(path: Path) -> list[Path]:
    def refuse(error: OSError) -> None:  # else a folder that cannot be read looks like an empty one
        raise error

    walk = os.walk(path, onerror=refuse)
    files = (Path(folder) / name for folder, _, names in walk for name in names)
    return sorted(file for file in files if stat.S_ISREG(file.stat().st_mode))
