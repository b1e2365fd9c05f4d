"""The persistent cache of compiled programs: what makes a second start fast."""

from __future__ import annotations

import os
from pathlib import Path

_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"


def quiet_xla() -> None:
    """Keep XLA's log off the user's screen; must come before jax is imported.

    Loading a program that this machine compiled itself, XLA reports features that no machine has
    ("+prefer-no-gather") as errors, a page for each program.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def switch_on_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless the environment names another.

    A folder that cannot be written leaves the cache off: a run must not fail for want of it.
    """
    import jax

    if not os.environ.get(_DIRECTORY):
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "jaxrl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        if not os.access(folder, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # Many small programs add up: keep all of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
