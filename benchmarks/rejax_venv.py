"""The virtual environment of rejax: its dependencies clash with ours, its jax must be the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

# gymnax 1.x returns six values from `step`, rejax 0.1.3 unpacks five: the last release before.
# CartPole and Breakout have the same dynamics in 0.0.9 and 1.0.1 (sources compared line by line).
PINS = {"rejax": "0.1.3", "gymnax": "0.0.9", "distrax": "0.1.9"}
# Taken from the interpreter that runs the benchmark: both sides compile the same way.
SHARED = ("jax", "jaxlib", "flax", "optax", "numpy")


def default_work_dir() -> Path:
    """Where the environment is kept between benchmarks."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "jaxrl" / "throughput"


def rejax_python(work_dir: Path) -> Path:
    """Python of an environment that holds rejax, made in `work_dir` unless it is there already.

    Args:
        work_dir: Folder of our own; `rejax/` inside it is replaced when the pins have changed.

    Returns:
        Path of the interpreter.

    Raises:
        subprocess.CalledProcessError: When pip fails; its own message stands above.
    """
    folder = work_dir / "rejax"
    python = folder / "bin" / "python"
    stamp = folder / "pins.json"
    pins = PINS | {name: version(name) for name in SHARED}
    wanted = json.dumps({"python": sys.version, **pins}, indent=1)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of rejax in {folder} (about a minute)", flush=True)
    if folder.exists():
        shutil.rmtree(folder)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = [f"{name}=={number}" for name, number in pins.items()]
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run([str(python), *install], check=True)
    stamp.write_text(wanted)  # last: an interrupted installation is made again
    return python


def installed_versions(python: Path) -> dict[str, str]:
    """Versions of what matters to the measurement, as `python` sees them."""
    names = ["rejax", "gymnax", "distrax", "tfp-nightly", *SHARED]
    code = (
        "import json, sys; from importlib.metadata import version, PackageNotFoundError\n"
        "out = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: out[name] = version(name)\n"
        "    except PackageNotFoundError: pass\n"
        "print(json.dumps(out))"
    )
    run = subprocess.run([str(python), "-c", code, *names], check=True, capture_output=True)
    return json.loads(run.stdout)
