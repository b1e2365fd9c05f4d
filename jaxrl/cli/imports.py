"""Modules of a user's own that register parts, agents or environments."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence

from jaxrl.cli.errors import BadInput


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register parts: those that installed packages announce under the entry
    point `jaxrl.parts`, and `names`, of this folder too.

    Raises:
        BadInput: one cannot be imported.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    announced = importlib.metadata.entry_points(group="jaxrl.parts")
    for name in [*(point.module for point in announced), *names]:
        try:
            importlib.import_module(name)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise BadInput(f"--import {name}: it cannot be imported ({said}).") from error
