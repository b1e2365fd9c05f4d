"""jaxrl: functional reinforcement learning in JAX, with pluggable Bellman operators.

Here stand the names of `jaxrl.core`, `jaxrl.agents` and `jaxrl.training`, the Bellman operator, and
every package. They are imported when first used, so that `import jaxrl` and the command line start
fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl import (
        envs as envs,
        functionals as functionals,
        losses as losses,
        meta as meta,
        networks as networks,
        operators as operators,
        planning as planning,
        replay as replay,
        report as report,
        returns as returns,
        rules as rules,
    )
    from jaxrl.agents import *  # noqa: F403
    from jaxrl.core import *  # noqa: F403
    from jaxrl.operators import BellmanOperator as BellmanOperator, Lookahead as Lookahead
    from jaxrl.training import *  # noqa: F403

__version__ = "0.1.0"

_OPEN = ("core", "agents", "training")  # whose names stand here too, in the order of their cost
_PACKAGES = (*_OPEN, "envs", "functionals", "losses", "meta", "networks", "operators", "planning")
_PACKAGES += ("replay", "report", "returns", "rules")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"jaxrl.{name}")
    if name in ("BellmanOperator", "Lookahead"):
        return getattr(importlib.import_module("jaxrl.operators"), name)
    if name == "__all__":
        doors = (importlib.import_module(f"jaxrl.{package}").__all__ for package in _OPEN)
        own = ("BellmanOperator", "Lookahead", *_PACKAGES)
        return sorted({*own, *(one for door in doors for one in door)})
    if not name.startswith("_"):
        for package in _OPEN:
            door = importlib.import_module(f"jaxrl.{package}")
            if name in door.__all__:
                return getattr(door, name)
    raise AttributeError(f"module 'jaxrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __getattr__("__all__")
