"""Evaluation: many whole episodes side by side, nothing learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack, overload

import jax

from jaxrl.core.arguments import check_key, check_parts, check_whole
from jaxrl.core.protocols import Agent, Environment, Policy
from jaxrl.core.types import Key, PyTree
from jaxrl.training.attacks import Attack, AttackedPolicy
from jaxrl.training.episodes import Evaluation, play_episodes
from jaxrl.training.robust_evaluation import (
    RobustEvaluation,
    environments_at,
    evaluate_each,
    expand_parameters,
)


class _Play(TypedDict, total=False):
    """What `evaluate` takes with and without a grid."""

    num_episodes: int
    max_steps: int
    explore: bool
    attack: Attack | None


@overload
def evaluate(
    key: Key,
    agent: Policy,
    env: Environment,
    agent_state: PyTree,
    *,
    over: None = ...,
    **play: Unpack[_Play],
) -> Evaluation: ...


@overload
def evaluate(
    key: Key,
    agent: Policy,
    env: Environment,
    agent_state: PyTree,
    *,
    over: Mapping[str, Sequence[float]],
    paired: bool = ...,
    same_episodes: bool = ...,
    **play: Unpack[_Play],
) -> RobustEvaluation: ...


def evaluate(
    key: Key,
    agent: Policy,
    env: Environment,
    agent_state: PyTree,
    *,
    num_episodes: int = 1000,
    max_steps: int = 10_000,
    explore: bool = False,
    attack: Attack | None = None,
    over: Mapping[str, Sequence[float]] | None = None,
    paired: bool = False,
    same_episodes: bool = True,
) -> Evaluation | RobustEvaluation:
    """Play `num_episodes` episodes at once; pure, so `vmap` it over agent states or environments.

    With `over`, play them in every environment of a grid, all in one compiled call.

    Args:
        key: all randomness of the evaluation.
        agent: acts.
        env: the environment.
        agent_state: a trained state, such as one of `SweepResult.agent_states`.
        num_episodes: episodes, all played side by side; so many in each environment.
        max_steps: episodes still running after so many steps are cut and counted as unfinished.
        explore: act as in training rather than greedily.
        attack: shifts what the agent observes, such as `GradientAttack`; the episode goes on in
            the true state.
        over: values of parameters of the environment by name, `{"pole_mass": [0.1, 0.3]}`: names
            as `jaxrl.envs.parameters` lists them, all combinations in the order of a nested loop.
        paired: with `over`, take the first values of all names together, then the second, ...
        same_episodes: with `over`, common random numbers: episode `e` draws the same keys in every
            environment, so that differences between them are sharper than each number alone.

    Returns:
        returns and lengths `[num_episodes]`; with `over`, `[num_settings, num_episodes]`.

    Raises:
        ValueError: fewer than one episode or step, another agent's state, no values, or one out of
            range.
        KeyError: the environment has no such parameter; the message lists near names.

    Example:
        >>> import jax
        >>> from jaxrl import envs, pqn
        >>> env = envs.TabularEnv(envs.riverswim(), time_limit=20.0)
        >>> state = pqn().init(jax.random.key(0), env)
        >>> evaluate(jax.random.key(1), pqn(), env, state, num_episodes=3).lengths.tolist()
        [20, 20, 20]
        >>> limits = {"time_limit": [5.0, 7.0]}
        >>> played = evaluate(jax.random.key(1), pqn(), env, state, num_episodes=2, over=limits)
        >>> played.lengths.tolist()
        [[5, 5], [7, 7]]
    """
    check_key(key)
    check_parts("agent", agent, ("act",), "jaxrl.ppo()")
    check_parts("env", env, ("reset", "step"), 'jaxrl.envs.make("CartPole")')
    if agent_state is None:
        raise ValueError(
            "agent_state is None: give a trained one, such as result.agent_state(0, 0)."
        )
    num_episodes = check_whole("num_episodes", num_episodes)
    max_steps = check_whole("max_steps", max_steps)
    player: Policy = agent if attack is None else AttackedPolicy(agent, attack)
    parameters = None if over is None else expand_parameters(env, over, paired)
    try:
        if parameters is None:
            return play_episodes(key, player, env, agent_state, num_episodes, max_steps, explore)
        return evaluate_each(
            key,
            player,
            environments_at(env, parameters),
            agent_state,
            num_episodes=num_episodes,
            max_steps=max_steps,
            explore=explore,
            same_episodes=same_episodes,
            parameters=parameters,
        )
    except Exception as error:
        _explain_state(agent, env, agent_state, error)
        raise


def _explain_state(agent: Policy, env: Environment, state: PyTree, error: Exception) -> None:
    """Raise `ValueError` where the state that could not be played with is not of this agent."""
    if isinstance(agent, Agent):
        wanted = jax.eval_shape(agent.init, jax.random.key(0), env)
        if type(state) is not type(wanted):
            raise ValueError(
                f"agent_state is {type(state).__name__}, but {type(agent).__name__} acts by a "
                f"{type(wanted).__name__}: give one of its own, such as result.agent_state(0, 0)."
            ) from error
