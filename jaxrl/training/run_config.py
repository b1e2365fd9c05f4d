"""A run's configuration as plain data: written as YAML, compared setting by setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any, name: str = "config") -> Any:
    """`value` in the types that YAML and JSON share: tuples and arrays become lists.

    Raises:
        TypeError: something in it is not plain data; the message has its dotted path.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, f"{name}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biuf":
        return value.tolist()
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}: only mappings, lists, strings, numbers, booleans "
        "and None can be written."
    )


def to_text(config: Mapping[str, Any]) -> str:
    """YAML text that `parse` turns back into equal values."""
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def parse(text: str) -> dict[str, Any]:
    """The configuration in YAML text; loading it runs no code.

    Raises:
        ValueError: the text is not a YAML mapping.
    """
    import yaml

    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"config.yaml is not YAML: {' '.join(str(error).split())}") from error
    if config is not None and not isinstance(config, dict):
        raise ValueError("config.yaml is not a mapping of settings to values.")
    return config or {}


def describe_difference(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One line for each setting in which two configurations differ; `[]` when they are equal.

    Example:
        >>> describe_difference({"agent": {"discount": 0.9}}, {"agent": {"discount": 0.99}})
        ['agent.discount: 0.9 (folder) != 0.99 (asked)']
    """
    old, new = _flatten(plain(found)), _flatten(plain(asked))
    names = [*old, *(name for name in new if name not in old)]
    return [
        f"{name}: {old.get(name, 'absent')} (folder) != {new.get(name, 'absent')} (asked)"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Dotted setting names to the texts of their values: text, so that NaN equals NaN."""
    if isinstance(value, dict) and value:
        found = {}
        for name, entry in value.items():
            found.update(_flatten(entry, f"{prefix}.{name}" if prefix else str(name)))
        return found
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # 1 and 1.0 are the same setting
    return {prefix: repr(value)} if prefix else {}
