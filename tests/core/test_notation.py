"""Texts and the settings they stand for."""

from __future__ import annotations

import pytest

from jaxrl.agents import PRESETS, preset
from jaxrl.core import (
    Cosine,
    Exponential,
    Linear,
    LinearSteps,
    list_settings,
    notation,
    replace_setting,
    settings,
)

PARSED = [
    ("learning_rate", "1e-4", "optimiser.learning_rate", 1e-4),
    ("optimiser.learning_rate", "1", "optimiser.learning_rate", 1.0),
    ("learning_rate", "linear:1.0:0.05", "optimiser.learning_rate", Linear(1.0, 0.05)),
    ("learning_rate", "linear:1:0.05:0.5", "optimiser.learning_rate", Linear(1.0, 0.05, 0.0, 0.5)),
    (
        "learning_rate",
        "steps:1.0:0.05:50_000",
        "optimiser.learning_rate",
        LinearSteps(1.0, 0.05, 5e4),
    ),
    ("learning_rate", "cosine:3e-4", "optimiser.learning_rate", Cosine(3e-4)),
    (
        "learning_rate",
        "exponential:1:0.1:100",
        "optimiser.learning_rate",
        Exponential(1.0, 0.1, 100.0),
    ),
    ("learning_rate", "linear:1e-3:0", "optimiser.learning_rate", Linear(1e-3, 0.0)),
    ("num_envs", "1_000_000", "num_envs", 1_000_000),
    ("num_envs", "1e3", "num_envs", 1000),
    ("hidden_sizes", "64,64", "network.hidden_sizes", (64, 64)),
    ("hidden_sizes", "(64,)", "network.hidden_sizes", (64,)),
    ("hidden_sizes", "", "network.hidden_sizes", ()),
    ("shared_torso", "true", "shared_torso", True),
    ("shared_torso", "0", "shared_torso", False),
    ("activation", "relu", "network.activation", "relu"),
    ("clip_epsilon", "inf", "rule.clip_epsilon", float("inf")),
]


@pytest.mark.parametrize(("name", "text", "full", "value"), PARSED)
def test_a_text_is_read_by_the_type_of_its_setting(name, text, full, value) -> None:
    found = notation.parse_setting(preset("ppo"), name, text)
    assert found == (full, value)
    assert type(found[1]) is type(value)


@pytest.mark.held_for(*sorted(PRESETS))
def test_every_setting_of_every_agent_survives_being_written_and_read() -> None:
    failed = []
    for name in sorted(PRESETS):
        agent = preset(name)
        for info in list_settings(agent):
            full, value = notation.parse_setting(agent, info.name, notation.to_text(info.value))
            same = (full, value) == (info.name, info.value)
            if not same or replace_setting(agent, full, value) != agent:
                failed.append(f"{name} {info.name}: {full}={value}")
    assert not failed, failed


@pytest.mark.parametrize("schedule", [row[3] for row in PARSED if ":" in row[1]])
def test_a_schedule_survives_being_written_and_read(schedule) -> None:
    assert (
        notation.parse_setting(preset("ppo"), "learning_rate", notation.to_text(schedule))[1]
        == schedule
    )


def test_a_setting_can_be_set_again_after_it_became_a_schedule() -> None:
    agent = replace_setting(preset("ppo"), "learning_rate", Linear(1.0, 0.0))
    assert notation.parse_setting(agent, "learning_rate", "0.5") == ("optimiser.learning_rate", 0.5)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("none", None), ("a", "a"), ("1,2.5", (1, 2.5))],
)
def test_a_literal_is_read_by_its_form(text: str, value: object) -> None:
    found = notation.parse_literal(text)
    assert found == value and type(found) is type(value)


def test_labels_are_short_where_that_is_clear() -> None:
    values = {"optimiser.learning_rate": 1.0, "rule.lambda_": 0.95}
    assert settings.setting_label(values, preset("ppo")) == "learning_rate=1, lambda_=0.95"
    assert settings.setting_label({}, preset("ppo")) == ""
