"""Train rejax and measure it; run by `throughput.py` inside the environment it makes for rejax.

The settings and the network are tabled in `throughput_settings.py`. Evaluation is switched off: the
first one is skipped, the callback that rejax calls at the end does nothing. Training is the
documented use of the library, `jit(vmap(algorithm.train))` over one key for each seed; one seed is
trained by `jit(algorithm.train)`, because under a vmap of width 1 PPO on CartPole takes 1.9 times
the CPU time and the comparison would flatter us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import rejax
from driver_loop import Program, drive, parse_arguments
from rejax.evaluate import evaluate
from throughput_settings import SETTINGS, DQNSettings, PPOSettings, whole_iterations

NUM_EPISODES = 8  # of each seed, for the final score only; not measured


def algorithm(settings: PPOSettings | DQNSettings, env: str, num_steps: int) -> Any:
    """The rejax algorithm with `settings` (its words on the left), its evaluation switched off."""
    shared = {
        "env": env,
        "total_timesteps": num_steps,
        "eval_freq": num_steps,
        "skip_initial_evaluation": True,
        "num_envs": settings.num_envs,
        "learning_rate": settings.learning_rate,
        "gamma": settings.discount,
    }
    if isinstance(settings, PPOSettings):
        made = rejax.PPO.create(
            agent_kwargs={
                "hidden_layer_sizes": settings.hidden_sizes,
                "activation": settings.activation,
            },
            num_steps=settings.rollout_length,
            num_epochs=settings.num_epochs,
            num_minibatches=settings.num_minibatches,
            gae_lambda=settings.lambda_,
            clip_eps=settings.clip,
            vf_coef=settings.value_weight,
            ent_coef=settings.entropy_weight,
            **shared,
        )
    else:
        made = rejax.DQN.create(
            agent="QNetwork",
            agent_kwargs={"activation": settings.activation},
            num_epochs=settings.num_updates,
            batch_size=settings.batch_size,
            buffer_size=settings.replay_size,
            fill_buffer=settings.fill_steps,
            target_update_freq=1,
            polyak=settings.polyak,
            eps_start=settings.epsilon_start,
            eps_end=settings.epsilon_end,
            exploration_fraction=settings.exploration_fraction,
            ddqn=True,
            **shared,
        )
    return made.replace(eval_callback=lambda algo, state, key: ())


def rejax_program(agent: str, env: str, num_seeds: int, num_steps: int) -> Program:
    """`num_seeds` runs of `agent` as one vmapped program of rejax."""
    settings = SETTINGS[agent, env]
    num_steps = whole_iterations(settings, num_steps)
    algo = algorithm(settings, env, num_steps)
    executable = {}

    def keys(number: int) -> jax.Array:
        split = jax.random.split(jax.random.PRNGKey(number), num_seeds)
        return split if num_seeds > 1 else split[0]

    def batched(function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(jax.vmap(function) if num_seeds > 1 else function)

    def compile_() -> None:
        executable["train"] = batched(algo.train).lower(keys(0)).compile()

    def run(number: int) -> Any:
        state, _ = executable["train"](keys(number))
        return state

    def score(state: Any) -> float:
        limit = algo.env_params.max_steps_in_episode

        def one(state: Any, key: jax.Array) -> jax.Array:
            act = algo.make_act(state)
            _, returns = evaluate(act, key, algo.env, algo.env_params, NUM_EPISODES, limit)
            return returns.mean()

        return float(batched(one)(state, keys(10**6)).mean())

    return Program(compile_, run, score, env_steps=num_seeds * num_steps)


def main() -> None:
    arguments = parse_arguments(__doc__)
    job = (arguments.agent, arguments.env, arguments.num_seeds, arguments.num_steps)
    drive(rejax_program(*job), arguments)


if __name__ == "__main__":
    main()
