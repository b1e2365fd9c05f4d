"""Doors that open when first used: a package's public names stand once, in its `__init__.pyi`."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def door(file: str, package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose stub imports its public names.

    Type checkers read the stub as it is. At run time it is read, not run: a name imports the module
    that the stub has it from, and no other. `__all__` is the names in order.

    Args:
        file: `__file__` of the package's `__init__.py`.
        package: its `__name__`.
    """

    @functools.cache
    def homes() -> dict[str, str]:
        imports: Any = ast.parse(Path(file).with_suffix(".pyi").read_text()).body
        return {alias.name: one.module for one in imports for alias in one.names}

    def get(name: str) -> Any:
        if name == "__all__":
            return sorted(homes())
        if name.startswith("__") or name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes()[name] == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(homes()[name]), name)

    return get, lambda: sorted(homes())
