"""S-06, novel policies: the bisector of two gradients keeps the task while it moves away.

    python benchmarks/systems/s06_novel_policies.py

On an open grid from corner to corner, where many ways are as short, PPO learns one; a second policy
is to be unlike it: novelty is the mean total variation between the two over the states that the
*new* policy sees. Constrained task-novelty bisector (CTNB): the task's gradient where novelty is at
least `LEAST`, else the bisector of both gradients. Control: a fixed weighted sum of the same two
gradients, at several weights, on the same seeds and steps. Return and novelty are computed exactly,
by occupancy. Claims: CTNB keeps 95 % of the first policy's return and reaches `LEAST`; no weight is
better in one and as good in the other (1 % of return, 0.02 of novelty).
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from _row import row

import jaxrl
from jaxrl import core, envs, networks, planning, rules

NUM_SEEDS, NUM_STEPS, DISCOUNT, LEAST = 8, 80_000, 0.95, 0.5
WEIGHTS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.1)
ENV = envs.make("WalledGrid", rows=("S.....", *("......",) * 4, ".....G"), time_limit=50.0)


@core.struct.dataclass
class Frozen:
    """A policy that was learned."""

    params: Any
    model: Any = core.struct.field(pytree_node=False)

    def __call__(self, observation: Any) -> networks.CategoricalPolicy:
        """The law of actions there."""
        arguments = (self.params, observation, jnp.zeros((), bool), ())
        return self.model.apply(*arguments, method="policy")[0]


def total_variation(policy: Any, other: Any) -> jax.Array:
    """Half the sum of the differences of probabilities, `[...]`."""
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(policy.log_probs()) - jnp.exp(other.log_probs())), -1)


@core.struct.dataclass
class NovelPolicy:
    """PPO with a gradient of the task and one of novelty, and a rule that makes one of both.

    A step pays the distance less `LEAST`, as in the authors' release (decisionforce/NPSCO). The
    gradient of novelty is that of its surrogate, with advantages under a critic of its own, and
    that of the distance in the states seen, which the release leaves out. The critics' loss has a
    gradient apart, which is added. The first `warm_up` steps of an episode, where every policy is
    in the same states, do not count in the novelty that is compared with `LEAST`.
    """

    reference: Frozen
    weight: float | None = None  # of novelty in a sum; None for the bisector
    warm_up: int = core.struct.field(pytree_node=False, default=2)
    rule: rules.ProximalPolicy = rules.ProximalPolicy(value_clip=float("inf"))

    facts = core.RuleFacts(losses=("task", "novelty", "critic"))
    outputs: ClassVar = {"novelty": ()}

    def init(self, params: Any) -> tuple:
        """Nothing."""
        return ()

    def targets(self, rule_state: tuple, outputs: Any, trajectory: Any, progress: Any) -> tuple:
        """PPO's; those of novelty, the reference's laws, and whether novelty lacks."""
        law = self.reference(trajectory.observation)
        apart = total_variation(outputs.policy, law)
        seen = outputs.replace(
            value=outputs.heads["novelty"], next_value=outputs.next_heads["novelty"]
        )
        paid = trajectory.replace(reward=apart - LEAST)
        novel = rules.advantage_targets(self.rule.lambda_, seen, paid)
        ended = (trajectory.terminated >= 1) | trajectory.truncated
        step = jnp.arange(ended.shape[0])[:, None]
        begins = jnp.concatenate([jnp.ones_like(ended[:1]), ended[:-1]])
        counts = step - jax.lax.cummax(jnp.where(begins, step, 0)) >= self.warm_up
        lacks = jnp.sum(jnp.where(counts, apart, 0.0)) < LEAST * jnp.sum(counts)
        targets, _ = self.rule.targets((), outputs, trajectory, progress)
        heads = {"novel": novel, "law": law, "lacks": jnp.broadcast_to(lacks, ended.shape)}
        return targets.replace(heads=heads), rule_state

    def loss(self, outputs: Any, targets: Any, progress: Any) -> dict[str, jax.Array]:
        """One of each."""
        novel, policy_loss = targets.heads["novel"], self.rule.replace(value_weight=0.0).loss
        errors = outputs.value - targets.returns, outputs.heads["novelty"] - novel.returns
        away = total_variation(outputs.policy, targets.heads["law"])
        return {
            "task": policy_loss(outputs, targets, progress),
            "novelty": policy_loss(outputs, novel, progress) - away,
            "critic": 0.25 * sum(error**2 for error in errors),
        }

    def combine(self, losses: dict, gradients: dict, targets: Any, progress: Any) -> Any:
        """What is descended."""
        task, novelty, critic = (gradients[name] for name in ("task", "novelty", "critic"))
        if self.weight is None:
            both, lacks = rules.bisector(task, novelty), targets.heads["lacks"][0]
            chosen = jax.tree.map(lambda b, t: jnp.where(lacks, b, t), both, task)
        else:
            w = self.weight
            chosen = jax.tree.map(lambda t, n: (1.0 - w) * t + w * n, task, novelty)
        return jax.tree.map(jnp.add, chosen, critic)


def learned(key: jax.Array, rule: Any) -> Frozen:
    agent = jaxrl.ppo(
        rule=rule,
        discount=DISCOUNT,
        learning_rate=core.Linear(3e-3, 0.0),
        normalise_advantages=False,
    )
    state = jaxrl.train(key, agent, ENV, num_steps=NUM_STEPS, num_records=1).state.agent
    return Frozen(state.params, state.model)


def weighed(policy: Frozen, reference: Frozen) -> tuple[jax.Array, jax.Array]:
    """Return, and novelty over the policy's own states, exactly."""
    mdp = ENV.as_mdp(DISCOUNT)
    states = jnp.arange(mdp.num_states)
    visits = planning.occupancy(mdp, jnp.exp(policy(states).log_probs()))
    apart = total_variation(policy(states), reference(states))
    of_state = jnp.sum(visits, axis=-1) * ~mdp.terminal
    return jnp.sum(visits * mdp.dense()[1]), jnp.sum(of_state * apart) / jnp.sum(of_state)


def main() -> None:
    started, shown = time.process_time(), {}
    keys = jax.random.split(jax.random.key(1), NUM_SEEDS)
    plain = rules.ProximalPolicy(value_clip=float("inf"))
    first = jax.jit(jax.vmap(lambda key: learned(key, plain)))(keys)

    @jax.vmap
    def of_first(policy: Frozen) -> tuple:
        return weighed(policy, policy)

    def second(key: jax.Array, reference: Frozen, weight: Any) -> tuple:
        rule = NovelPolicy(reference, weight)
        return weighed(learned(jax.random.fold_in(key, 1), rule), reference)

    def told(name: str, found: tuple) -> tuple[np.ndarray, np.ndarray]:
        numbers = [np.asarray(x) for x in found]
        cells = [f"{x.mean():.3f} +- {1.96 * x.std(ddof=1) / NUM_SEEDS**0.5:.3f}" for x in numbers]
        shown[name] = f"return {cells[0]}, novelty {cells[1]}"
        print(f"{name:22s} {shown[name]}")
        return tuple(x.mean() for x in numbers)

    print(f"{NUM_SEEDS} seeds, {NUM_STEPS:,} steps for each policy, least novelty {LEAST}")
    base, _ = told("first policy", of_first(first))
    run = jax.jit(jax.vmap(second, (0, 0, None)))
    ctnb = told("bisector (CTNB)", run(keys, first, None))
    sums = {
        w: told(f"sum, weight {w:g} (control)", run(keys, first, jnp.asarray(w))) for w in WEIGHTS
    }
    keeps = ctnb[0] >= 0.95 * base and ctnb[1] >= LEAST
    better = [
        w
        for w, (mean, novelty) in sums.items()
        if mean >= 0.99 * ctnb[0] and novelty >= ctnb[1] - 0.02
        and (mean > 1.01 * ctnb[0] or novelty > ctnb[1] + 0.02)
    ]  # fmt: skip
    beaten = [w for w, (mean, novelty) in sums.items() if mean < ctnb[0] and novelty < ctnb[1]]
    print(f"keeps the return and the novelty: {'yes' if keeps else 'no'}")
    print(f"weights that are better: {better or 'none'}; worse in both: {beaten or 'none'}")
    near = min(sums, key=lambda w: abs(sums[w][1] - ctnb[1]))  # of the nearest novelty
    row(
        started,
        bool(keeps and not better),
        measured=shown["bisector (CTNB)"],
        control=f"weight {near:g}: {shown[f'sum, weight {near:g} (control)']}",
        interval=f"95 %, {NUM_SEEDS} seeds; weights that are better: {better or 'none'}",
    )


if __name__ == "__main__":
    main()
