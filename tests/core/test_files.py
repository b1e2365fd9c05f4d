"""Files replaced in one move; nothing planted beside them is followed, nothing is left behind."""

import os
import re
import secrets

import pytest

from jaxrl.core import files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    with files.replacing(path) as stream:
        stream.write(b"one")
    with pytest.raises(KeyError), files.replacing(path) as stream:
        stream.write(b"tw")
        raise KeyError
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_no_name_is_used_twice_and_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    path, outside = tmp_path / "file", tmp_path / "outside"
    drafts = set()
    for _ in range(20):
        with files.replacing(path):
            drafts |= set(tmp_path.glob(".*"))
    assert len(drafts) == 20
    outside.write_text("mine")
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    (tmp_path / ".file.guessed.draft").symlink_to(outside)
    with pytest.raises(FileExistsError), files.replacing(path) as stream:
        stream.write(b"theirs")
    assert outside.read_text() == "mine"


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in (".a.0f.draft", "b.draft", ".c"):
        (tmp_path / name).write_text("")
    files.remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".c", "b.draft"]


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    with files.take_lock(tmp_path):
        with pytest.raises(ValueError, match=r"in use by process \d+ on .*stop it, or wait\.$"):
            files.take_lock(tmp_path, remedy=", or wait")
        files.take_lock(tmp_path, ".other").close()
    files.take_lock(tmp_path).close()


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff{}", b"[" * 200_000, b"1" * 5000, b""])
def test_what_no_one_wrote_is_one_line_that_names_the_file(tmp_path, content):
    file = tmp_path / "status.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(file))) as error:
        files.read_json(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} has 2 bytes"):
        file.write_text("{}")
        files.read_bytes(file, most=1)
    assert files.read_json(file) == files.read_json(tmp_path / "none") == {}


def test_pipes_and_folders_are_not_read(tmp_path):
    """A pipe that nobody writes to would hold its reader for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"not a plain file.*{name}"):
            files.read_text(tmp_path / name)
