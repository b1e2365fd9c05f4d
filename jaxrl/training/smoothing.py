"""Policy smoothing: noise on every observation, and what it proves about attacked returns."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from jaxrl.agents.readers import of_inner, response
from jaxrl.core import Struct
from jaxrl.core.arguments import check_whole
from jaxrl.core.protocols import Environment, Policy, act
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.training.evaluation import play_episodes

_DRAWS_OF_A_RESPONSE = 16
_RANKS_PER_OCTAVE = 2


class SmoothedPolicy(Struct):
    """An agent that sees every observation through Gaussian noise of its own making.

    seen_t = observation_t + scale * N(0, I), drawn anew in every step, before anything else the
    agent does, such as running normalisation: `scale` is in the unit of the raw observation. At
    scale 0 it is the agent. Train the agent inside under `ObservationNoise(env, scale)`, or it has
    not learned to act on what it will see.
    """

    agent: Any
    scale: float = 0.1  # standard deviation [observation]

    num_envs = of_inner("num_envs")
    rollout_length = of_inner("rollout_length", "steps")
    discount = of_inner("discount", "per step")

    def initial_memory(self, num_envs: int) -> PyTree:
        """The agent's, `[num_envs, ...]`."""
        return self.agent.initial_memory(num_envs)

    def act(
        self,
        key: Key,
        state: PyTree,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
        mask: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """The agent's action on noisy `observation[B, ...]`, and its extras."""
        noise_key, act_key = jax.random.split(key)
        noisy = _noisy(noise_key, observation, self.scale)
        return act(self.agent, act_key, state, noisy, explore, memory, mask)

    def response(
        self, key: Key, state: PyTree, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """The mean answer to several draws of the noise, which an attacker may compute."""
        noise_key, inner_key = jax.random.split(key)
        many = jnp.repeat(observation[None], _DRAWS_OF_A_RESPONSE, axis=0)
        kinds: list[bool] = []

        def answer(seen: Array) -> Array:
            rows, discrete = response(self.agent, inner_key, state, seen, memory)
            kinds.append(discrete)
            return rows

        answers = jax.vmap(answer)(_noisy(noise_key, many, self.scale))
        return jnp.mean(answers, axis=0), kinds[0]


@dataclasses.dataclass(frozen=True)
class SmoothingCertificate:
    """What is certain about the return of a smoothed policy under attack.

    The adversary shifts the true observation of every step by delta_t, before the noise is added,
    with sum_t ||delta_t||^2 <= budget^2 over the episode. It may know agent, states and all past
    noise, and draw lots; it does not know the noise to come. Then for every x

        P_attacked(R >= x) >= Phi(Phi^-1(P(R >= x)) - budget / scale),

    and, for returns that are at least `lowest_return` whatever happens, the integral of the right
    side over x > lowest_return bounds E_attacked[R] - lowest_return from below. Probabilities on
    the right are replaced by lower confidence bounds, so that every bound below holds with
    probability `confidence` over the sampled episodes. At budget 0 it is that confidence bound.

    The right side is convex in the probability, so that averaging over what the environment draws
    only helps: the bound holds even where the adversary foresees the environment's own chance.

    Sources:
        Kumar, Levine & Feizi, "Policy smoothing for provably robust reinforcement learning"
        (2022): the adaptive form of the Neyman-Pearson lemma, and the sum over thresholds.
    """

    returns: np.ndarray  # [E], rising, without attack [return]
    scale: float  # of the noise [observation]
    confidence: float
    lowest_return: float  # [return]
    max_steps: int  # the return counts so many steps at most
    num_unfinished: int

    def mean(self, budget: ArrayLike = 0.0) -> np.ndarray:
        """A lower bound on the expected return under every attack within `budget`.

        One confidence statement covers all budgets: the survival function of the return is bounded
        at all sampled returns at once (`survival_band`) and taken as a
        staircase, so nothing depends on a choice of thresholds.

        Args:
            budget: `[...]`, total l2 norm of all shifts of an episode [observation].

        Returns:
            `[...]` [return], falling in the budget, down to `lowest_return`.
        """
        steps = np.diff(self.returns, prepend=self.lowest_return)
        rises = steps > 0
        band = survival_band(len(self.returns), self.confidence)[rises]
        return self.lowest_return + self._shifted(band, budget) @ steps[rises]

    def probability(self, threshold: float, budget: ArrayLike = 0.0) -> np.ndarray:
        """A lower bound on P(R >= threshold) under every attack within `budget`.

        Clopper-Pearson for this threshold alone: choose it before looking at the returns. One
        confidence statement covers all budgets.

        Args:
            threshold: [return].
            budget: `[...]`, total l2 norm of all shifts of an episode [observation].

        Returns:
            `[...]`, falling in the budget.
        """
        reached = int(np.sum(self.returns >= threshold))
        prob = clopper_pearson_lower(reached, len(self.returns), self.confidence)
        return self._shifted(prob, budget)[..., 0]

    def largest_budget(self, target: float) -> float:
        """The budget up to which the expected return is certified to be at least `target`.

        Returns:
            [observation]; 0 where not even the return without attack is.
        """
        if self.mean(0.0) < target:
            return 0.0
        if target <= self.lowest_return:
            return math.inf
        low, high = 0.0, self.scale
        while self.mean(high) >= target:
            low, high = high, 2.0 * high
        for _ in range(50):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.mean(middle) >= target else (low, middle)
        return low

    def _shifted(self, probs: np.ndarray, budget: ArrayLike) -> np.ndarray:
        """Phi(Phi^-1(p) - budget / scale) `[..., N]` of each of `probs[N]` and `budget[...]`: the
        least probability, after a Gaussian is moved so far, of an event that had p before."""
        from scipy import special

        budgets = np.asarray(budget, np.float64)[..., None]
        if np.any(~(budgets >= 0.0)):
            raise ValueError(f"budget={budget} is out of range: give values in [0, inf].")
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.where(budgets > 0.0, budgets / self.scale, 0.0)
            return np.nan_to_num(special.ndtr(special.ndtri(np.atleast_1d(probs)) - shift))


def certify_smoothed(
    key: Key,
    agent: Policy,
    env: Environment,
    agent_state: PyTree,
    *,
    scale: float,
    num_episodes: int = 10_000,
    max_steps: int = 10_000,
    confidence: float = 0.95,
    lowest_return: float = 0.0,
    explore: bool = False,
) -> SmoothingCertificate:
    """Play a smoothed policy without attack, and certify its return under every attack.

    Args:
        key: all randomness of the episodes.
        agent: what is smoothed, as it was trained: `SmoothedPolicy(agent, scale)` is certified.
        env: the environment as the smoothed policy will meet it, with float observations. A budget
            is counted on what this `env` shows: with stacked frames, on every copy of a frame.
        agent_state: a trained state.
        scale: standard deviation of the noise, above 0 [observation]. More certifies larger
            budgets and costs return.
        num_episodes: episodes, all played side by side.
        max_steps: the return counts so many steps at most; where rewards are never negative, the
            bounds hold for the whole return too.
        confidence: of each bound, in (0, 1).
        lowest_return: the return that no attack can push below, such as 0 where rewards are never
            negative [return]. The mean needs it; nothing can be said of it otherwise.
        explore: act as in training rather than greedily.

    Raises:
        ValueError: a number out of range, or an episode returned less than `lowest_return`.

    Example:
        >>> from jaxrl import envs, pqn
        >>> env = envs.TabularEnv(envs.riverswim(), time_limit=20.0, one_hot=True)
        >>> state = pqn().init(jax.random.key(0), env)
        >>> certificate = certify_smoothed(
        ...     jax.random.key(1), pqn(), env, state, scale=0.5, num_episodes=200
        ... )
        >>> bounds = certificate.mean([0.0, 0.25, 0.5])
        >>> bool(bounds[0] >= bounds[1] >= bounds[2] >= 0.0)
        True
    """
    num_episodes = check_whole("num_episodes", num_episodes)
    max_steps = check_whole("max_steps", max_steps)
    if not scale > 0.0 or not math.isfinite(scale):
        raise ValueError(f"scale={scale} is out of range: give a value in (0, inf).")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} is out of range: give a value in (0, 1).")
    if isinstance(agent, SmoothedPolicy):
        raise ValueError("the agent is smoothed already: give the agent inside, and its scale.")
    policy = SmoothedPolicy(agent, scale)
    played = play_episodes(key, policy, env, agent_state, num_episodes, max_steps, explore)
    returns = np.sort(np.asarray(played.returns, np.float64))
    # NaN is sorted to the end: it is no number that a certificate could stand on.
    if not np.all(np.isfinite(returns)):
        raise ValueError("an episode's return is not finite: nothing can be certified.")
    if returns[0] < lowest_return:
        raise ValueError(
            f"an episode returned {returns[0]:g}, below lowest_return={lowest_return:g}: give a "
            "bound on the return that holds whatever the agent does."
        )
    unfinished = int(np.sum(~np.asarray(played.finished)))
    return SmoothingCertificate(returns, scale, confidence, lowest_return, max_steps, unfinished)


def _noisy(key: Key, observation: PyTree, scale: float | Array) -> PyTree:
    """Every entry of every leaf with its own noise."""
    for leaf in jax.tree.leaves(observation):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"smoothing adds noise to float observations; these are {leaf.dtype} (a tabular "
                "environment gives floats with one_hot=True)."
            )
    noise = optax.tree.random_like(key, observation, jax.random.normal)
    return jax.tree.map(
        lambda leaf, drawn: leaf + jnp.asarray(scale, leaf.dtype) * drawn, observation, noise
    )


def clopper_pearson_lower(successes: ArrayLike, num_trials: int, confidence: float) -> np.ndarray:
    """The one-sided lower bound of Clopper and Pearson on a probability.

    The p at which `successes` or more of `num_trials` have probability 1 - confidence:
    I_p(k, n - k + 1) = 1 - confidence. It is above the truth with probability at most
    1 - confidence, for every truth.

    Args:
        successes: `[...]`, in `[0, num_trials]`.
        num_trials: independent trials, n.
        confidence: in (0, 1).

    Returns:
        `[...]` in [0, 1); 0 without a success.

    Example:
        >>> bound = clopper_pearson_lower(20, 20, 0.95)  # all of n: (1 - confidence)^(1 / n)
        >>> abs(float(bound) - 0.05 ** (1 / 20)) < 1e-12
        True

    Sources:
        Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the case of the
        binomial" (1934).
    """
    from scipy import special

    successes = np.asarray(successes, np.float64)
    share, failures = 1.0 - confidence, num_trials - successes
    bound = special.betaincinv(np.maximum(successes, 1.0), failures + 1.0, share)
    return np.where(successes > 0, bound, 0.0)


def survival_band(num_episodes: int, confidence: float) -> np.ndarray:
    """Lower bounds on P(R >= x) at every order statistic, that hold all at once.

    With n independent returns R_(1) <= ... <= R_(n), and probability at least `confidence`,

        P(R >= R_(i)) >= band[i - 1] for all i.

    Half of the risk goes to the Dvoretzky-Kiefer-Wolfowitz bound with Massart's constant,
    (n - i + 1) / n - sqrt(log(2 / risk) / (2 n)), best in the middle; half, in equal parts, to
    Clopper-Pearson bounds at ranks chosen beforehand, dense among the least returns: P(R >= R_(i))
    is stochastically at least Beta(n - i + 1, i), whatever the law of R, and their bound is its
    quantile. They are close to exact where P(R >= x) is near 1, and hold at lower ranks too.

    Returns:
        `[num_episodes]`, falling.

    Sources:
        Massart, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality" (1990).
    """
    risk = 1.0 - confidence
    num_above = num_episodes - np.arange(num_episodes)
    slack = math.sqrt(math.log(2.0 / risk) / (2.0 * num_episodes))
    octaves = np.arange(0, math.log2(num_episodes) + 1e-9, 1.0 / _RANKS_PER_OCTAVE)
    ranks = np.unique(np.round(2.0**octaves).astype(int)) - 1
    band = np.maximum(num_above / num_episodes - slack, 0.0)
    exact = clopper_pearson_lower(num_above[ranks], num_episodes, 1.0 - 0.5 * risk / len(ranks))
    band[ranks] = np.maximum(band[ranks], exact)
    return np.maximum.accumulate(band[::-1])[::-1]  # what a higher return reaches, lower do
