"""A run's configuration as plain data: written as YAML, compared setting by setting."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrl.core.settings import moved_names

_MOST_CHARACTERS = 1_000_000
_SHIFT = "reward_shift"


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
        ValueError: the text is not a YAML mapping, or larger, deeper or trickier than any that
            `to_text` writes.
    """
    import yaml

    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"config.yaml has more than {_MOST_CHARACTERS:,} characters.")
    try:
        _check_nodes(yaml.compose(text, Loader=yaml.SafeLoader))
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"config.yaml is not YAML: {' '.join(str(error).split())}") from error
    if config is not None and not isinstance(config, dict):
        raise ValueError("config.yaml is not a mapping of settings to values.")
    return _since(config or {})


def _since(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of an earlier version, whose agents had a shift of rewards as a setting and
    not as a part, as this one writes it."""
    settings, swept, resolved = (config.get(x) or {} for x in ("settings", "sweep", "resolved"))
    if resolved.pop(_SHIFT, 0) or _SHIFT in settings or _SHIFT in swept:
        shift = float(settings.pop(_SHIFT, 0.0))
        config = {**config, "parts": {**config.get("parts", {}), "parts": f"{_SHIFT}:{shift}"}}
        resolved[f"parts.{_SHIFT}.shift"] = shift
        if _SHIFT in swept:
            swept[f"parts.{_SHIFT}.shift"] = swept.pop(_SHIFT)
    return config


def _check_nodes(root: Any) -> None:
    """Raise `ValueError` at an alias, which may stand for billions, and at a name given twice."""
    seen, left = set(), [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            raise ValueError("config.yaml has an alias (*name): write the value out.")
        seen.add(id(node))
        entries = node.value if node is not None and not isinstance(node.value, str) else []
        names = [key.value for key, _ in entries] if node and node.id == "mapping" else []
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"config.yaml gives {twice[0]!r} twice: leave one of them out.")
        left += [part for entry in entries for part in (entry if names else [entry])]


def describe_difference(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One line for each setting in which two configurations differ; `[]` when they are equal.

    What an agent has got since the folder was made is compared only where it is set.

    Example:
        >>> describe_difference({"agent": {"discount": 0.9}}, {"agent": {"discount": 0.99}})
        ['agent.discount: 0.9 (folder) != 0.99 (asked)']
    """
    new = _flatten(plain(asked))
    old = moved_names(_flatten(plain(found)), new)
    # What is resolved of settings that came later is what nobody set in the folder.
    new = {name: new[name] for name in new if name in old or not name.startswith("resolved.")}
    return differences(old, new, ("folder", "asked"))


def differences(
    found: Mapping[str, str],
    asked: Mapping[str, str],
    places: tuple[str, str],
    same: Callable[[str | None, str | None], bool] = operator.eq,
) -> list[str]:
    """One line for each name whose texts differ; `places` say where the two stand."""
    names = [*asked, *(name for name in found if name not in asked)]
    return [
        f"{name}: {found.get(name, 'absent')} ({places[0]}) != "
        f"{asked.get(name, 'absent')} ({places[1]})"
        for name in names
        if not same(found.get(name), asked.get(name))
    ]


def shortened(lines: list[str], most: int = 8) -> list[str]:
    """The first lines, and how many more there are."""
    return lines[:most] + [f"and {len(lines) - most} more"] * (len(lines) > most)


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
