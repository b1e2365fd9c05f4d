"""The settings with which both sides of `throughput.py` train.

Both drivers read these structs and nothing else, so a setting cannot differ between the two sides.
Standard library only, because two virtual environments import this file.

CartPole takes the settings that rejax publishes for CartPole (`configs/gymnax/cartpole.yaml`),
Breakout takes the defaults of its `PPO` class and, for DQN, a common MinAtar shape whose replay
fits 16 seeds into memory (rejax stores both observations as float32: 3,200 bytes a transition).
Changed from those sources: no gradient clipping (rejax clips elements, not the norm) and a plain
instead of a dueling Q-network, so that two libraries do the same arithmetic; and DQN fills less of
its replay before it learns, so that a short measurement is mostly learning.

What rejax 0.1.3 does with them, for the other side to do likewise:

=====================  =============================================================================
network                observation flattened (Breakout: 10*10*4 = 400), Dense 64, Dense 64, one
                       linear layer; no convolution, no layer norm. PPO: two separate networks
                       (policy, value). DQN: one network and a lagged copy.
initialisation         flax Dense defaults everywhere: lecun_normal kernels, zero biases; the
                       output layers too.
optimiser              Adam (b1 0.9, b2 0.999, eps 1e-8), constant learning rate, no clipping. PPO
                       keeps one Adam for each network; that equals one Adam over both.
PPO, one iteration     `rollout_length` steps of `num_envs`; then `num_epochs` times: shuffle all
                       rollout_length * num_envs samples, split into `num_minibatches`, one gradient
                       step on each.
PPO loss               ratio clip `clip`; advantages (GAE, not recomputed between epochs) are
                       normalised in each minibatch (eps 1e-8); value loss 0.5 * max(squared error,
                       squared error of the value clipped to +-`clip` round the old one), times
                       `value_weight`; entropy bonus `entropy_weight`.
DQN, one iteration     one step of `num_envs` (rollout_length 1), then `num_updates` gradient steps,
                       each on a fresh batch drawn uniformly without replacement; no update and
                       uniformly random actions while at most `fill_steps` steps have been made
                       (tested before the iteration's own step). The draw of rejax costs O(replay
                       size), about 0.4 ms of CPU: most of the time of both DQN rows.
DQN loss               mean of 0.5 * (q - target)^2, double Q-learning target. No Huber loss.
DQN target copy        after each iteration, filling included:
                       target <- polyak * target + (1 - polyak) * online.
exploration            epsilon linear from `epsilon_start` to `epsilon_end` over the first
                       `exploration_fraction` of all environment steps.
episode ends           gymnax 0.0.9 `step` resets by itself; a time limit counts as termination
                       (no bootstrap), in PPO and in DQN.
evaluation             off in both (rejax's callback is replaced by an empty one).
not done at all        observation or reward normalisation, learning-rate decay, episode statistics.
=====================  =============================================================================
"""

from __future__ import annotations

import dataclasses
from typing import Literal

AgentName = Literal["ppo", "dqn"]
EnvName = Literal["CartPole-v1", "Breakout-MinAtar"]


@dataclasses.dataclass(frozen=True)
class PPOSettings:
    """Proximal policy optimisation, with the words of jaxrl."""

    num_envs: int
    rollout_length: int
    num_epochs: int
    num_minibatches: int
    learning_rate: float
    activation: str
    hidden_sizes: tuple[int, ...] = (64, 64)
    discount: float = 0.99
    lambda_: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.01


@dataclasses.dataclass(frozen=True)
class DQNSettings:
    """Double DQN with a uniform replay, with the words of jaxrl."""

    num_envs: int
    num_updates: int  # gradient steps after each step of all environments
    batch_size: int
    replay_size: int  # transitions of one seed
    fill_steps: int
    learning_rate: float
    polyak: float  # kept share of the target copy
    exploration_fraction: float
    activation: str = "swish"
    hidden_sizes: tuple[int, ...] = (64, 64)  # rejax's DQN takes no other sizes
    discount: float = 0.99
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05


SETTINGS: dict[tuple[str, str], PPOSettings | DQNSettings] = {
    ("ppo", "CartPole-v1"): PPOSettings(
        num_envs=5,
        rollout_length=100,
        num_epochs=5,
        num_minibatches=5,
        learning_rate=7.5e-4,
        activation="tanh",
    ),
    ("ppo", "Breakout-MinAtar"): PPOSettings(
        num_envs=64,
        rollout_length=64,
        num_epochs=8,
        num_minibatches=16,
        learning_rate=3e-4,
        activation="swish",
    ),
    ("dqn", "CartPole-v1"): DQNSettings(
        num_envs=10,
        num_updates=5,
        batch_size=100,
        replay_size=50_000,
        fill_steps=1_000,
        learning_rate=1e-3,
        polyak=0.98,
        exploration_fraction=0.5,
    ),
    ("dqn", "Breakout-MinAtar"): DQNSettings(
        num_envs=8,
        num_updates=2,
        batch_size=128,
        replay_size=32_768,
        fill_steps=1_024,
        learning_rate=3e-4,
        polyak=0.99,
        exploration_fraction=0.1,
    ),
}


def steps_per_iteration(settings: PPOSettings | DQNSettings) -> int:
    """Environment steps of one seed between two updates."""
    length = settings.rollout_length if isinstance(settings, PPOSettings) else 1
    return settings.num_envs * length


def whole_iterations(settings: PPOSettings | DQNSettings, num_steps: int) -> int:
    """`num_steps` rounded up to whole iterations [environment steps of one seed]."""
    size = steps_per_iteration(settings)
    return -(-num_steps // size) * size
