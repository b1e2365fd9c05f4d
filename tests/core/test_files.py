"""Files replaced in one move; nothing planted beside them is followed, nothing is left behind."""

import secrets

import pytest

from jaxrl.core.files import remove_drafts, replacing, take_lock


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as stream:
        stream.write(b"one")
    with pytest.raises(KeyError), replacing(path) as stream:
        stream.write(b"tw")
        raise KeyError
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_no_name_is_used_twice_and_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    path, outside = tmp_path / "file", tmp_path / "outside"
    drafts = set()
    for _ in range(20):
        with replacing(path):
            drafts |= set(tmp_path.glob(".*"))
    assert len(drafts) == 20
    outside.write_text("mine")
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    (tmp_path / ".file.guessed.draft").symlink_to(outside)
    with pytest.raises(FileExistsError), replacing(path) as stream:
        stream.write(b"theirs")
    assert outside.read_text() == "mine"


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in (".a.0f.draft", "b.draft", ".c"):
        (tmp_path / name).write_text("")
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".c", "b.draft"]


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    with take_lock(tmp_path):
        with pytest.raises(ValueError, match=r"in use by process \d+ on .*stop it, or wait\.$"):
            take_lock(tmp_path, remedy=", or wait")
        take_lock(tmp_path, ".other").close()
    take_lock(tmp_path).close()
