"""Parts of value learners that change rewards: a share of the advantage (Munchausen), the average
reward in the discount's place, a number added to every reward."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents import chain
from jaxrl.agents.chain import Step
from jaxrl.agents.generative import own_copy
from jaxrl.core import Struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment, PartFacts, legal_of_each
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.spaces import is_masked
from jaxrl.core.types import Array, Key, Progress, PyTree
from jaxrl.operators.bellman import BellmanOperator, Lookahead, describe
from jaxrl.operators.improvement import MirrorDescent, gap_bonus


class Munchausen(Struct):
    """A share of the taken action's advantage under the improvement, added to its reward.

    reward + weight max(q_a - V, clip),  V = sum_b probs_b (q_b + bonus_b)

    of the lagged copy at the state. With `Softmax(temperature)` the advantage is temperature log
    probs_a, the published form, which is mirror descent of KL weight weight * temperature and
    entropy weight (1 - weight) temperature; with `Tsallis` it is general Munchausen value
    iteration, with `Greedy` advantage learning.

    Attributes:
        weight: in [0, 1); 0 changes nothing.
        clip: least advantage, <= 0 [return]; -inf for none, where the correspondence is exact.

    Example:
        >>> from jaxrl.operators import Softmax
        >>> operator = BellmanOperator(improvement=Softmax(1.0))
        >>> bonus = Munchausen(weight=0.5, clip=-9.0).bonus(operator, jnp.zeros(2), 1)
        >>> f"{float(bonus):.4f}"  # log(1/2) / 2
        '-0.3466'

    Sources:
        Vieillard, Pietquin & Geist (2020), Munchausen reinforcement learning, equation 1 and
        theorem 1; Zhu et al. (2023), General Munchausen reinforcement learning with Tsallis
        Kullback-Leibler divergence, section 4; Baird (1999), chapter 5.
    """

    facts = PartFacts(owns=(chain.BONUS,), one_step=True, discrete=True)

    weight: float = setting(0.9, "share of the advantage added to the reward", low=0.0, high=1.0)
    clip: float = setting(-1.0, "least advantage", unit="return", high=0.0, infinite=True)

    def bonus(
        self, operator: BellmanOperator, scores: Array, action: Array, mask: Array | None = None
    ) -> Array:
        """`scores[A]` [return] of the lagged copy at the state, `action[]` -> `[]` [return]."""
        return gap_bonus(operator.improvement, scores, action, self.weight, self.clip, mask)

    def reward(self, key: Key, state: tuple, step: Step, lookahead: Lookahead) -> Lookahead:
        """With the bonus of what was done, by the lagged copy."""
        agent, data = step.agent, step.batch.transition
        lagged = step.state.model.apply(step.state.target_params, data.observation)
        scores = agent.scores(lagged, data.observation)
        bonus = jax.vmap(functools.partial(self.bonus, agent.operator))
        mask = data.mask if is_masked(data.mask) else None
        added = bonus(scores, data.action, mask)
        return lookahead.replace(reward=lookahead.reward + added[:, None])


def check_mirror_descent(agent: Any) -> None:
    """Raise `ValueError` for a mirror descent that needs more than one lagged copy."""
    step = agent.operator.improvement
    if not _is_implicit(step):
        return
    if any(chain.BONUS in part.facts.owns for part in agent.parts):
        raise ValueError(f"{describe(step)} is itself a Munchausen bonus: leave parts without one.")
    if not step.regularise_evaluation:
        raise ValueError(
            f"{describe(step)}: without regularise_evaluation the last policy is not in the values "
            "and would have to be kept. Set regularise_evaluation=True, give log_reference, or "
            "plan with mirror_descent_value_iteration."
        )


def explicit(agent: Any) -> Any:
    """Mirror descent in the variables that a learner can keep.

    `MirrorDescent(l, t)` without a reference goes on from the last policy pi_k. With
    q'_k = q_k + l log pi_k it is

        pi_{k+1} = softmax(q'_k / (l + t)),
        q'_{k+1} = r + l log pi_{k+1} + discount P <pi_{k+1}, q'_k - (l + t) log pi_{k+1}>

    so that one network holds both: the agent with `Softmax`'s bonus and a `Munchausen` part. Any
    other agent is left as it is.

    Sources:
        Vieillard, Pietquin & Geist (2020), Munchausen reinforcement learning, theorem 1.
    """
    step = agent.operator.improvement
    if not _is_implicit(step):
        return agent
    temperature = jnp.asarray(step.kl_weight + step.entropy_weight)
    weight = step.kl_weight / jnp.where(temperature > 0, temperature, 1.0)
    soft = step.replace(kl_weight=jnp.zeros_like(temperature), entropy_weight=temperature)
    parts = (*agent.parts, Munchausen(weight, -jnp.inf))
    return agent.replace(operator=agent.operator.replace(improvement=soft), parts=parts)


def _is_implicit(step: object) -> bool:
    return isinstance(step, MirrorDescent) and step.log_reference is None


class AverageState(Struct):
    """What `AverageReward` remembers."""

    gain: Array  # [] [return per step], the estimate
    restart: PyTree  # the environment, for fresh resets


class AverageReward(Struct):
    """Differential Q-learning: nothing is discounted, and the average reward is subtracted.

        target = r - g + V'(s'),   g <- g + step_size E[target - q'(s, a)]

    over the batch, with q' the lagged copy and V' the improvement's value by it. (The error is that
    of one function, as in the table's algorithm. Taken of the network that learns, which follows
    its targets, most of it would vanish before g has moved.) g tends to the best average reward of
    a unichain model, and q to its relative values up to a constant. Where an episode ends the next
    begins at once: an end is worth the mean of V' over fresh resets, as many as the batch has rows.
    So g tends to the `gain` of `planning.relative_value_iteration`, under every functional over
    successors.

    g moves by the errors and not by the rewards, so that it is the optimal policy's average reward
    while another one acts.

    Attributes:
        step_size: of g, in one gradient step.
        initial: g at first [return per step].

    Example:
        >>> AverageReward(step_size=0.5).moved(jnp.array(1.0), jnp.array(2.0), Progress.start())
        Array(2., dtype=float32)

    Sources:
        Wan, Naik & Sutton (2021), Learning and planning in average-reward Markov decision
        processes, section 2. There, and in the code of the authors
        (abhisheknaik96/average-reward-methods, agents/control_agents.py), the step size of g is eta
        alpha, a multiple of that of q; here it is a number of its own.
    """

    facts = PartFacts(
        owns=(chain.ORIGIN,),
        one_step=True,
        unit_steps=True,
        undiscounted=True,
        sums=True,
        means=True,
        moves=True,
        discrete=True,
    )

    step_size: float | Schedule = setting(0.01, "step size of the average", low=0.0, high=1.0)
    initial: float = setting(0.0, "first estimate", unit="return per step")

    def init(self, key: Key, agent: Any, env: Environment, params: PyTree) -> AverageState:
        """The first estimate, and a copy of the environment."""
        return AverageState(jnp.asarray(self.initial, jnp.float32), own_copy(env))

    def reward(self, key: Key, state: AverageState, step: Step, lookahead: Lookahead) -> Lookahead:
        """Less the average; at an end, with what a fresh start is worth."""
        agent, learner = step.agent, step.state
        keys = jax.random.split(key, agent.batch_size)
        fresh, observation = jax.vmap(state.restart.reset)(keys)
        mask = legal_of_each(state.restart, fresh, agent.batch_size)
        rows, selector = agent.rows(learner, observation)
        law = jax.vmap(agent.operator.state_law)(rows, mask if is_masked(mask) else None, selector)
        worth = jnp.mean(law.mean())
        shifted = shifted_reward(lookahead.reward, lookahead.discount, worth)
        return lookahead.replace(reward=shifted - state.gain)

    def update(self, state: AverageState, step: Step, target: Law, lagged: Array) -> AverageState:
        """g a step towards the mean error of the lagged copy."""
        weights = step.batch.weights
        count = jnp.maximum(jnp.sum(weights > 0), 1)
        td_error = jnp.sum(weights * (target.mean() - lagged)) / count
        return state.replace(gain=self.moved(state.gain, td_error, step.state.progress))

    def metrics(self, state: AverageState) -> dict[str, Array]:
        """`average_reward` [return per step]."""
        return {"average_reward": state.gain}

    def moved(self, gain: Array, td_error: Array, progress: Progress) -> Array:
        """g after a batch of mean error `td_error[]` [return]; as it was if that is not finite."""
        moved = (gain + value_at(self.step_size, progress) * td_error).astype(gain.dtype)
        return jnp.where(jnp.isfinite(moved), moved, gain)


def differential() -> AverageReward:
    """Differential Q-learning (Wan et al. 2021): the average reward is subtracted."""
    return AverageReward()


register("average_rewards", differential)


class RewardShift(Struct):
    """A number added to every reward, ends corrected: values start too low, or too high.

    The network holds q + K with K = shift / (1 - discount), see `shifted_reward`; a network that
    is near 0 at first is then too high by K < 0, and tries what it has not tried, or too low by
    K > 0, and stays with what it knows. The order of actions, hence the optimum, stays.

    Attributes:
        shift: [return].

    Example:
        >>> float(RewardShift(-1.0).offset(0.75))
        -4.0

    Source: Sun et al. 2022, see `shifted_reward`.
    """

    facts = PartFacts(
        owns=(chain.ORIGIN,), discounted=True, moves=True, moves_returns=True, sums=True
    )

    shift: float = setting(0.0, "added to rewards, ends corrected", unit="return")

    def offset(self, discount: float | Array) -> Array:
        """K, `[]` [return]."""
        return shifted_value(self.shift, discount)

    def reward(self, key: Key, state: tuple, step: Step, lookahead: Lookahead) -> Lookahead:
        """Under which every value is higher by K."""
        shifted = shifted_reward(
            lookahead.reward, lookahead.discount, self.offset(step.agent.discount)
        )
        return lookahead.replace(reward=shifted)


def shifted_value(shift: float | Array, discount: float | Array) -> Array:
    """What a constant reward adds to every value: K = shift / (1 - discount) [return].

    Zero for no shift, whatever the discount.

    Example:
        >>> float(shifted_value(-1.0, 0.75)), float(shifted_value(0.0, 1.0))
        (-4.0, 0.0)
    """
    shift, rest = jnp.asarray(shift), 1.0 - jnp.asarray(discount)
    scale = jnp.where(rest > 0, 1.0 / jnp.where(rest > 0, rest, 1.0), jnp.inf)
    return jnp.where(shift == 0, 0.0, shift * scale)


def shifted_reward(reward: Array, discount: Array, constant: Array) -> Array:
    """Rewards under which every value is higher by the same `constant`: r + (1 - d) K.

    Here d is `discount`. Where a single step goes on, (1 - d) K is the shift. At an end
    d is 0 and K is added whole: the shift, and what it would have been worth later. Steps of any
    number or length, and probabilities of ending, are in d as well. So the order of actions stays.

    With the shift alone, ending is worth less (a positive shift) or more (a negative one) than it
    was, and the best policy may be another.

    Args:
        reward: `[...]` [return].
        discount: `[...]`, gamma^tau (1 - terminated) of the same step.
        constant: `[]` [return], see `shifted_value`.

    Example:
        >>> shifted_reward(jnp.zeros(2), jnp.array([0.75, 0.0]), jnp.array(-4.0)).tolist()
        [-1.0, -4.0]

    Sources:
        Sun et al. (2022), Exploit reward shifting in value-based deep RL: optimistic
        curiosity-based exploration and conservative exploitation via linear reward shaping (a shift
        as another first q). As released (holarissun/RewardShifting) the shift alone is added, at
        ends too; adding K there is ours.
    """
    return reward + (1.0 - discount) * constant


register("parts", Munchausen, differential, RewardShift)
