"""The command, run inside the test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import Run, no_pictures

from jaxrl.cli import main


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, and the cache where the environment names none, end in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def undrawn() -> Iterator[None]:
    """No pictures, for those who look at none."""
    with no_pictures():
        yield


@pytest.fixture
def jaxrl(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: its exit code, what it printed, what it complained of."""

    def run(*argv: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
