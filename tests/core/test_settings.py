"""Settings: found by name, checked by range, and explained when wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxrl.core import (
    Linear,
    Schedule,
    check_settings,
    list_settings,
    replace_setting,
    setting,
    settings,
    struct,
)


@struct.dataclass
class Inner:
    rate: float | Schedule = setting(0.5, "speed", unit="per step", low=0.0, low_open=True)
    width: int = setting(4, "size", low=1)
    kind: str = setting("tanh", "shape", choices=("tanh", "relu"))


@struct.dataclass
class Outer:
    first: Inner = struct.field(default_factory=Inner)
    second: Inner = struct.field(default_factory=lambda: Inner(rate=0.25))
    share: float = setting(0.1, "part", low=0.0, high=1.0)
    noise: float | Schedule = setting(Linear(1.0, 0.0), "spread")
    double: bool = setting(False, "twice")


@struct.dataclass
class Holder:
    inner: Inner = struct.field(default_factory=Inner)


def test_listing_walks_into_inner_structs_but_not_into_schedules():
    assert [info.name for info in list_settings(Outer())] == [
        *(f"first.{name}" for name in ("rate", "width", "kind")),
        *(f"second.{name}" for name in ("rate", "width", "kind")),
        *("share", "noise", "double"),
    ]


def test_floats_and_schedules_are_leaves_and_the_rest_is_static():
    assert sorted(jax.tree.leaves(Outer())) == [0.0, 0.0, 0.1, 0.25, 0.5, 1.0, 1.0]
    leaves = {info.name for info in list_settings(Outer()) if info.is_leaf}
    assert leaves == {"first.rate", "second.rate", "share"}


@pytest.mark.parametrize(
    "name, full",
    [("share", "share"), ("first.rate", "first.rate"), ("second.width", "second.width")],
)
def test_a_full_name_is_itself(name, full):
    assert settings.resolve_setting(Outer(), name) == full


def test_a_unique_last_part_finds_an_inner_setting():
    assert settings.resolve_setting(Holder(), "rate") == "inner.rate"
    changed = replace_setting(Holder(), "rate", 0.75)
    assert changed.inner.rate == 0.75 and changed.inner.width == 4
    assert replace_setting(Outer(), "second.width", 9).second.width == 9


@pytest.mark.parametrize(
    "name, words",
    [
        ("rate", ["ambiguous", "first.rate", "second.rate"]),
        ("shar", ["unknown", "'shar'", "did you mean share"]),
        ("first.rat", ["did you mean first.rate"]),
        ("zzz", ["unknown", "known:", "noise"]),
    ],
)
def test_a_name_that_is_not_one_setting_is_explained(name, words):
    with pytest.raises(KeyError) as caught:
        replace_setting(Outer(), name, 1.0)
    for word in words:
        assert word in str(caught.value)


def test_near_names_ignore_case_look_at_parts_and_shorten_long_lists():
    assert settings.near_names("cartpole-V1", ["CartPole-v1", "Catch-bsuite"]) == (
        "did you mean CartPole-v1?"
    )
    known = ["RandomMaze", "MetaMaze-misc", "Pendulum", "optimiser.learning_rate", "kl_ball"]
    assert settings.near_names("maze", known) == "did you mean RandomMaze or MetaMaze-misc?"
    assert settings.near_names("kl", known) == "did you mean kl_ball?"
    assert settings.near_names("learning_rat", known) == "did you mean optimiser.learning_rate?"
    many = [f"name{i:02}" for i in range(40)]
    message = settings.near_names("#", many)
    assert "40" in message and "name00" in message and "name20" not in message
    # A message that is to list all of them does so once.
    assert settings.near_names("#", many, see="").count("name20") == 1
    assert settings.near_names("name20", many, see="").startswith("did you mean name20, ")


@pytest.mark.parametrize(
    "name, value",
    [
        ("share", -0.01),
        ("share", 1.01),
        ("share", float("nan")),
        ("first.rate", 0.0),
        ("second.width", 0),
        ("first.kind", "sigmoid"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        check_settings(replace_setting(Outer(), name, value))


@pytest.mark.parametrize(
    "name, value",
    [("share", 0.0), ("share", 1.0), ("first.rate", 1e-9), ("second.width", 1), ("double", True)],
)
def test_values_at_the_edge_are_allowed(name, value):
    check_settings(replace_setting(Outer(), name, value))


def test_the_message_shows_the_interval():
    info = next(i for i in list_settings(Outer()) if i.name == "first.rate")
    with pytest.raises(ValueError, match=r"\(0, inf\)"):
        settings.check_value(info, -1.0)


def test_traced_values_are_let_through():
    def checked(share):
        check_settings(Outer(share=share))
        return share

    assert float(jax.jit(checked)(jnp.float32(7.0))) == 7.0
