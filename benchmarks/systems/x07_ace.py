"""X-07, ACE: entropy where the actions have an effect, and none where they have not.

    python benchmarks/systems/x07_ace.py

Soft actor-critic on Pendulum-v1 with six further action coordinates that do nothing. A part of
the chain, written here, weighs the entropy of each coordinate by its effect on the value
(weights have mean one); without it (control) each counts the same.
Claims: with equal weights it is SAC, up to rounding, which grows over a life; idle coordinates get
at most a quarter of the mean weight; returns are not worse at the same keys and steps: the interval
of the difference reaches 0 or lies above.

The paper finds effects on the reward by a search for causal orders in the data, now and then.
On the pendulum a reward hardly shows its action, and which way effects run is known: here the
effect of coordinate i is that of an intervention: the mean square change of the critics when it is
redrawn and the others stay. The paper's reset of dormant units is left out.

Source: Ji et al. 2024, ACE: Off-policy actor-critic with causality-aware entropy regularization.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import core, envs

NUM_SEEDS, NUM_STEPS, SHORT, NUM_IDLE = 6, 12_000, 2_000, 6
DECAY, NUM_ROWS = 0.99, 64  # of the running means; rows of a batch that they look at


class Idle(core.Struct):
    """An environment with `NUM_IDLE` more action coordinates, which do nothing."""

    env: Any

    observation_space = property(lambda self: self.env.observation_space)

    @property
    def action_space(self) -> core.Box:
        """Wider, in units of the true coordinate."""
        inner = self.env.action_space
        ends = (jnp.repeat(end, 1 + NUM_IDLE) for end in (inner.low, inner.high))
        return core.Box(*ends, (1 + NUM_IDLE,))

    def reset(self, key: jax.Array) -> tuple:
        """As inside."""
        return self.env.reset(key)

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> tuple:
        """By the first coordinate."""
        return self.env.step(key, state, action[..., :1])


class Effects(core.Struct):
    """Weighs the entropy of coordinates by their effects, or equally."""

    equal: bool = core.struct.field(pytree_node=False, default=False)

    facts = core.PartFacts(entropy=True)

    def init(self, key: jax.Array, agent: Any, env: Any, params: Any) -> jax.Array:
        """Equal effects `[D]` [return^2]."""
        return jnp.full(env.action_space.shape, 1e-4)

    def update(self, state: jax.Array, step: Any, target: Any, lagged: jax.Array) -> jax.Array:
        """Their next running means: what the critics say of a redrawn coordinate."""
        learner, data = step.state.learner, step.batch.transition
        seen, done = data.observation[:NUM_ROWS], step.state.box.to_unit(data.action[:NUM_ROWS])
        redrawn = jax.random.uniform(step.key, done.shape, minval=-1.0, maxval=1.0)

        def values(action: jax.Array) -> jax.Array:
            return jnp.mean(step.state.critic.apply(learner.params.critic, seen, action), axis=0)

        def effect(which: jax.Array) -> jax.Array:
            changes = values(jnp.where(which, redrawn, done)) - values(done)
            return jnp.mean(changes**2)

        found = jax.vmap(effect)(jnp.eye(state.size, dtype=bool))
        return DECAY * state + (1.0 - DECAY) * found

    def log_prob(self, state: tuple, log_probs: jax.Array) -> jax.Array:
        """Their weighted sum."""
        return jnp.sum(log_probs, axis=-1) if self.equal else log_probs @ shares(state)

    def metrics(self, state: tuple) -> dict[str, jax.Array]:
        """The weight of an idle coordinate, on average."""
        return {"idle_weight": jnp.mean(shares(state)[1:])}


def shares(effects: jax.Array) -> jax.Array:
    """Weights of mean one."""
    return effects / jnp.mean(effects)


@functools.partial(jax.jit, static_argnums=2)
def learned(keys: jax.Array, agent: Any, num_steps: int) -> dict[str, jax.Array]:
    """Mean return of the last fifth of each life, of the whole, and weights, `[seed]`."""

    def run(key: jax.Array) -> dict[str, jax.Array]:
        result = jaxrl.train(key, agent, Idle(envs.make("Pendulum-v1")), num_steps=num_steps)
        returns = result.metrics["episode_return"]
        weights = result.metrics.get("idle_weight", jnp.ones(1))
        return {
            "return": jnp.nanmean(returns[-(returns.shape[0] // 5) :]),
            "whole life": jnp.nanmean(returns),
            "idle weight": weights[-1],
        }

    return jax.device_get(jax.vmap(run)(keys))


def main() -> None:
    started, found = time.process_time(), {}
    keys = jax.random.split(jax.random.key(0), NUM_SEEDS)
    print(f"mean [range] of {NUM_SEEDS} seeds, {NUM_STEPS:,} steps each")
    for name, parts in {"SAC (control)": (), "ACE": (Effects(),)}.items():
        found[name] = learned(keys, jaxrl.sac(parts=parts), NUM_STEPS)
        cells = [
            f"{what} {x.mean():.2f} [{x.min():.2f}, {x.max():.2f}]"
            for what, x in found[name].items()
        ]
        print(f"{name:14s} {', '.join(cells)}")
    gain = found["ACE"]["whole life"] - found["SAC (control)"]["whole life"]
    width = 2.57 * gain.std(ddof=1) / NUM_SEEDS**0.5  # t of 5 degrees of freedom
    print(f"ACE less SAC, return over the whole life: {gain.mean():+.0f} +- {width:.0f}")
    short = [
        learned(keys[:1], jaxrl.sac(parts=parts), SHORT)["whole life"]
        for parts in ((), (Effects(equal=True),))
    ]
    apart = float(np.max(np.abs(short[0] / short[1] - 1.0)))
    print(f"with equal weights: SAC's return over {SHORT:,} steps to {apart:.0e} of it")
    holds = found["ACE"]["idle weight"].mean() < 0.25 and gain.mean() + width > 0 and apart < 1e-3
    row(
        started,
        bool(holds),
        measured=f"idle weight {found['ACE']['idle weight'].mean():.2f}, return "
        f"{found['ACE']['whole life'].mean():.0f}",
        control=f"1, {found['SAC (control)']['whole life'].mean():.0f}, SAC",
        interval=f"difference of returns [{gain.mean() - width:+.0f}, {gain.mean() + width:+.0f}], "
        f"{NUM_SEEDS} seeds",
    )


if __name__ == "__main__":
    main()
