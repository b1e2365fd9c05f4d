"""One gradient step of every agent, worked out by hand: which network, which copy, which state.

Each network is a table (tables.py). Online and lagged copies hold numbers so different that any
exchange changes the result, and so do the three ways in which the one transition learned from may
end: not at all (the next row's state follows), by termination (nothing follows) or by truncation.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
import scipy.special
from tables import (
    FROM_REPLAY,
    HALF,
    NETWORK,
    ON_POLICY,
    Line,
    filled,
    kernel,
    rows,
    stacked,
    started,
)

from jaxrl.agents import (
    PRESETS,
    AverageReward,
    Munchausen,
    Optimism,
    TargetUpdate,
    TruncatedMixture,
    ValueChannels,
)
from jaxrl.core import Linear
from jaxrl.operators import (
    BellmanOperator,
    Categorical,
    Gaussian,
    ImplicitQuantile,
    Quantile,
    Scalar,
    SignedHyperbolic,
    Softmax,
)
from jaxrl.replay import PrioritisedReplay, UniformReplay

STATES = 3
# q[state, action]. The taken pair is (0, 0); state 1 follows, or state 2 where it is truncated.
ONLINE = np.array([[2.0, 1.0], [1.0, 3.0], [0.0, 9.0]])
LAGGED = np.array([[7.0, 5.0], [10.0, 4.0], [6.0, -2.0]])
ENDS = ("", "terminated", "truncated")
STEPS = [(0, 1.0, 2 if end == "truncated" else 1, end) for end in ENDS]
# A replay that stores successors draws either row; one that does not draws the first alone, and
# takes the second row's state for its successor.
TWICE = stacked(*(rows(step, step) for step in STEPS))
FOLLOWED = stacked(*(rows(step, (1, 0.0, 2, "")) for step in STEPS))
# The copy moves with every second update: not with the first one, but with the second.
EVERY_SECOND = TargetUpdate(period=2, step_size=1.0)


@jax.jit
def update(agent, state, transitions, num_updates):
    """After the transitions `[C, T, B]`, each from `state` with so many updates done."""

    def one(transition, count):
        return agent.update(jax.random.key(0), with_count(state, count), transition)

    return jax.vmap(one)(transitions, num_updates)


def after_one_step(agent, state, transitions, num_updates):
    return jax.device_get(update(agent, state, transitions, np.asarray(num_updates)))


def with_count(state, count):
    if hasattr(state, "learner"):
        return state.replace(learner=state.learner.replace(num_updates=count))
    return state.replace(num_updates=count) if hasattr(state, "num_updates") else state


# --- learners of q[state, action] -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A value agent, how it stores a return, and what (0, 0) is to move towards at each end."""

    changes: dict
    targets: tuple[float, float, float]  # of `ENDS`, the last with stored successors
    store: object = staticmethod(lambda table: table)  # [S, A] -> the network's table
    step: object = staticmethod(lambda target: target - 2.0)  # how far the entry of 2 moves


def atoms(head):
    """Logits that are sure of each entry, as far as float32 can tell."""
    grid = np.linspace(head.low, head.high, head.num_atoms)
    return lambda table: np.where(np.isclose(grid, table[..., None]), 40.0, 0.0)


def towards_atom(head):
    """The slope of a cross-entropy is the law less the target; the law is sure of 2."""
    grid = np.linspace(head.low, head.high, head.num_atoms)
    return lambda target: np.isclose(grid, target) * 1.0 - np.isclose(grid, 2.0)


GRID = Categorical(low=-2.0, high=10.0, num_atoms=25)
PLAIN = BellmanOperator(Scalar(float("inf")))
# A temperature that is a schedule, though it stays: the agent must take its present value.
SOFT = BellmanOperator(Scalar(float("inf")), improvement=Softmax(temperature=Linear(2.0, 2.0)))
# Munchausen: 1/4 of the advantage 2 log pi(0 | 0) of the lagged copy, which is well above the clip.
BONUS = 0.25 * 2.0 * scipy.special.log_softmax(LAGGED[0] / 2.0)[0]
SOFT_1, SOFT_2 = (2.0 * scipy.special.logsumexp(LAGGED[s] / 2.0) for s in (1, 2))
# 1 + max q' / 2 with q' the lagged copy; its greatest values are 10 in state 1 and 6 in state 2.
LAGGED_TARGETS = (6.0, 1.0, 4.0)
CASES = {
    "dqn": Case({}, LAGGED_TARGETS),
    # Chosen by the online copy: action 1 in both states, which the lagged one holds for 4 and -2.
    "double_dqn": Case({}, (3.0, 1.0, 0.0)),
    "munchausen_dqn": Case(
        {"operator": SOFT, "parts": (Munchausen(weight=0.25, clip=-9.0),)},
        (1 + BONUS + HALF * SOFT_1, 1 + BONUS, 1 + BONUS + HALF * SOFT_2),
    ),
    "c51": Case(
        {"operator": BellmanOperator(GRID)}, LAGGED_TARGETS, atoms(GRID), towards_atom(GRID)
    ),
    # Both quantiles (levels 1/4 and 3/4) are at 2: below a target they rise by their levels, above
    # it they fall by the rest.
    "qr_dqn": Case(
        {"operator": BellmanOperator(Quantile(num_atoms=2, huber_threshold=0.0))},
        LAGGED_TARGETS,
        lambda table: np.repeat(table[..., None], 2, axis=-1),
        lambda target: np.array([0.25, 0.75]) - (target < 2.0),
    ),
    # The first estimate of the average reward is 1/4; an end is followed by a fresh start in state
    # 0, which the lagged copy holds for 7, undiscounted as everything.
    "differential_dqn": Case(
        {"parts": (AverageReward(step_size=0.5, initial=0.25),), "discount": 1.0},
        (0.75 + 10.0, 0.75 + 7.0, 0.75 + 6.0),
    ),
    # One channel of gains, stored as asinh. The aim is a quarter of the way from the online 2.
    "log_dqn": Case(
        {
            "parts": (
                ValueChannels(
                    mappings=(SignedHyperbolic(1.0), SignedHyperbolic(1.0)), value_rate=0.25
                ),
            )
        },
        LAGGED_TARGETS,
        lambda table: np.stack([np.arcsinh(table), np.zeros_like(table)], axis=-1),
        lambda target: np.array([np.arcsinh(2.0 + 0.25 * (target - 2.0)) - np.arcsinh(2.0), 0.0]),
    ),
}


# Rainbow, further down, has the grid of C51; the loss of QR-DQN is held with its head.
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ("c51", "qr_dqn"))) for name in CASES
]


@functools.cache
def learned(name: str, store_next: bool):
    """The state before, and those after each of `ENDS`, once from update 0 and once from 1."""
    case, env = CASES[name], Line()
    replay = UniformReplay(capacity=8, store_next=store_next)
    settings = FROM_REPLAY | {"target": EVERY_SECOND, "replay": replay} | case.changes
    agent = PRESETS[name]().replace(**settings)
    state = started(agent, env)
    state = state.replace(
        params=filled(state.params, advantage=case.store(ONLINE)),
        target_params=filled(state.target_params, advantage=case.store(LAGGED)),
    )
    data = TWICE if store_next else FOLLOWED
    data = data.replace(discount=agent.discount * (data.discount > 0).astype(np.float32))
    both = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), data)
    return state, *after_one_step(agent, state, both, [0, 0, 0, 1, 1, 1])


def moves(name, state, after, row):
    """How far each entry of the online table has moved."""
    before, now = (kernel(s.params, "advantage") for s in (state, after))
    shape = (STATES, 2, -1)
    return (now[row] - before).reshape(shape)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ROWS)
def test_the_entry_of_what_was_done_moves_to_its_target_and_no_other(name, end):
    case, row = CASES[name], ENDS.index(end)
    state, after, _ = learned(name, store_next=True)
    expected = np.zeros((STATES, 2, np.size(case.step(0.0))))
    expected[0, 0] = case.step(case.targets[row])
    np.testing.assert_allclose(moves(name, state, after, row), expected, rtol=1e-4, atol=2e-5)


def test_without_stored_successors_a_truncated_row_teaches_nothing():
    """Row 1 begins another episode: its state 1 does not follow the truncated row 0."""
    case = CASES["dqn"]
    state, after, metrics = learned("dqn", store_next=False)
    np.testing.assert_array_equal(metrics["counted_share"], [1.0, 1.0, 0.0] * 2)
    for row, target in enumerate((*case.targets[:2], None)):
        expected = np.zeros((STATES, 2, 1))
        expected[0, 0] = 0.0 if target is None else case.step(target)
        np.testing.assert_allclose(moves("dqn", state, after, row), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ROWS)
def test_the_copy_takes_the_new_parameters_at_every_second_update(name):
    state, after, _ = learned(name, store_next=True)
    for row, count in enumerate([1, 1, 1, 2, 2, 2]):
        assert after.num_updates[row] == count
        lagged, online, before = (
            kernel(params, "advantage")
            for params in (after.target_params, after.params, state.target_params)
        )
        np.testing.assert_array_equal(lagged[row], online[row] if count == 2 else before)


def test_the_average_reward_moves_by_half_the_error_of_the_lagged_copy():
    """1/4 + (target - 7) / 2: the lagged copy holds (0, 0) for 7, the online one for 2."""
    _, after, metrics = learned("differential_dqn", store_next=True)
    expected = 0.25 + 0.5 * (np.array(CASES["differential_dqn"].targets) - 7.0)
    np.testing.assert_allclose(after.parts[0].gain[:3], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["average_reward"][:3], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["dqn", "double_dqn"])
def test_what_is_reported_is_the_loss_and_the_value_before_the_step(name):
    """Half the squared error, and the online value 2."""
    _, _, metrics = learned(name, store_next=True)
    errors = np.array(CASES[name].targets) - 2.0
    np.testing.assert_allclose(metrics["loss"][:3], 0.5 * errors**2, rtol=1e-5)
    np.testing.assert_allclose(metrics["q_value"], 2.0, rtol=1e-6)


@functools.cache
def implicit():
    """IQN whose embedding of levels is 1 and whose last layer is the table: no level matters."""
    network = NETWORK.replace(hidden_sizes=(STATES,), activation="relu")
    head = ImplicitQuantile(num_atoms=2, num_cosines=2, huber_threshold=0.0)
    agent = PRESETS["iqn"]().replace(
        **FROM_REPLAY
        | {
            "network": network,
            "operator": BellmanOperator(head),
            "target": EVERY_SECOND,
            "replay": UniformReplay(capacity=8, store_next=True),
        }
    )
    state = started(agent, Line())

    def with_table(params, table):
        params = filled(params, advantage=table, Dense_0=np.eye(STATES))
        params["params"]["level"]["bias"] += 1.0
        return params

    state = state.replace(
        params=with_table(state.params, ONLINE),
        target_params=with_table(state.target_params, LAGGED),
    )
    return after_one_step(agent, state, TWICE, [0, 0, 0])[0]


@pytest.mark.parametrize(
    "end", [ENDS[-1], *(pytest.param(end, marks=pytest.mark.slow) for end in ENDS[:-1])]
)
def test_implicit_quantiles_rise_below_the_target_and_fall_above_it(end):
    """The levels u of the two estimates are drawn from [0, 1/2] and [1/2, 1]; an estimate below the
    target 6 or 4 rises by u, one above 1 falls by 1 - u. Together by 1/2 to 3/2."""
    row = ENDS.index(end)
    moved = kernel(implicit().params, "advantage")[row] - ONLINE
    assert 0.5 < moved[0, 0] * (-1.0 if end == "terminated" else 1.0) < 1.5
    moved[0, 0] = 0.0
    np.testing.assert_array_equal(moved, 0.0)


@functools.cache
def rainbow():
    """Rewards 1, 2, 4 are worth 1 + 1 + 1 at discount 1/2, and what follows an eighth."""
    head = Categorical(low=0.0, high=16.0, num_atoms=17)
    agent = PRESETS["rainbow"]().replace(
        **FROM_REPLAY
        | {
            "operator": BellmanOperator(head),
            "replay": PrioritisedReplay(capacity=8, num_step=3, store_next=False),
            "target": EVERY_SECOND,
            "rollout_length": 4,
        }
    )
    state = started(agent, Line())
    # Dueling: a value and advantages whose mean counts for nothing. Chosen by the online copy:
    # action 1, which the lagged one holds for 8.
    online = np.array([[2.0, 0.0], [1.0, 3.0], [0.0, 9.0]])
    lagged = np.array([[7.0, 5.0], [10.0, 4.0], [16.0, 8.0]])
    logits = atoms(head)
    state = state.replace(
        params=filled(
            state.params, advantage=logits(online), value=np.mean(logits(online), axis=1)
        ),
        target_params=filled(
            state.target_params, advantage=logits(lagged), value=np.mean(logits(lagged), axis=1)
        ),
    )
    steps = [(0, 1.0, 1, ""), (1, 2.0, 1, ""), (1, 4.0, 2, ""), (2, 0.0, 2, "")]
    ended = [*steps[:2], (1, 4.0, 2, "terminated"), steps[3]]
    cut = [*steps[:2], (1, 4.0, 2, "truncated"), steps[3]]
    trajectories = stacked(rows(*steps), rows(*ended), rows(*cut))
    return agent, state, after_one_step(agent, state, trajectories, [0, 0, 0])[0]


@pytest.mark.parametrize(
    "end, target",
    # Three rewards and an eighth of 8; the rewards alone; two rewards and a quarter of state 1,
    # the last that is known, whose action 1 the lagged copy holds for 4.
    [
        ("truncated", 3.0),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in [("", 4.0), ("terminated", 3.0)]),
    ],
)
def test_rainbow_moves_towards_three_rewards_and_the_lagged_value_of_the_online_choice(end, target):
    _, state, after = rainbow()
    row = ENDS.index(end)
    grid = np.arange(17.0)
    slope = 1.0 * (grid == target) - (grid == 2.0)
    value, advantage = (
        kernel(after.params, name)[row] - kernel(state.params, name)
        for name in ("value", "advantage")
    )
    # The value takes the whole slope; the advantage of the action done keeps half, as their mean
    # is taken off, and the other loses half.
    np.testing.assert_allclose(value[0], slope, atol=2e-5)
    np.testing.assert_allclose(advantage[0].reshape(2, 17), [slope / 2, -slope / 2], atol=2e-5)
    np.testing.assert_array_equal(value[1:], 0.0)


# --- regression on lambda-returns -----------------------------------------------------------------


@functools.cache
def parallel():
    agent = PRESETS["pqn"]().replace(**ON_POLICY | {"lambda_": 0.25})
    state = started(agent, Line())
    state = state.replace(params=filled(state.params, advantage=ONLINE))
    trajectories = stacked(
        *(rows((0, 1.0, 2 if e == "truncated" else 1, e), (1, 4.0, 2, "")) for e in ENDS)
    )
    after, metrics = after_one_step(agent, state, trajectories, [0, 0, 0])
    return kernel(after.params, "advantage") - ONLINE, metrics


@pytest.mark.parametrize("end", ENDS)
def test_pqn_regresses_on_the_returns_of_its_own_values(end):
    """Step 1 aims at 4 + 9 / 2 = 8.5. Step 0 aims at 1 + (3/4 max q(1) + 1/4 8.5) / 2 with max
    q(1) = 3, at 1 where it terminates, and at 1 + 9 / 2 of its true successor, state 2, where it is
    truncated. The loss is half the mean square, so that each entry moves by half its error."""
    targets = {"": 1.0 + 0.5 * (0.75 * 3.0 + 0.25 * 8.5), "terminated": 1.0, "truncated": 5.5}
    moved, metrics = parallel()
    errors = np.array([targets[end] - 2.0, 8.5 - 1.0])
    expected = np.zeros((STATES, 2))
    expected[:2, 0] = errors / 2
    np.testing.assert_allclose(moved[ENDS.index(end)], expected, rtol=1e-5)
    loss = metrics["loss"][ENDS.index(end)]
    np.testing.assert_allclose(loss, 0.25 * np.sum(errors**2), rtol=1e-5)


# --- actor-critics --------------------------------------------------------------------------------

VALUES = np.array([1.0, 2.0, 6.0, 3.0, 4.0])  # of five states, by the critic
# The others are PPO but for the loss of the rule, which tests/rules holds.
ON_POLICY_ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in ("a2c", "ppo")))
    for name in ("a2c", "ppo", "mdpo", "lpo")  # DPO has a lesson in test_presets.py
]
# One-step errors r + V' / 2 - V from the last step back, and traces of 1/4, discount times lambda.
#   step 3: 8 + 6/2 - 4 = 7                          step 2: 1 + ... = 4 + 4/2 - 3 + 7/4 = 4.75
#   step 1: 2 + 3/2 - 2 + 4.75/4 = 2.6875, or 2 - 2 = 0 where it terminates, or where it is
#           truncated 2 + 6/2 - 2 = 3 by its true successor, state 2, and no trace
#   step 0: 1 + 2/2 - 1 = 1 and a quarter of that of step 1
ADVANTAGES = {
    "": (1.671875, 2.6875, 4.75, 7.0),
    "terminated": (1.0, 0.0, 4.75, 7.0),
    "truncated": (1.75, 3.0, 4.75, 7.0),
}


@functools.cache
def on_policy(name):
    """How far the tables of policy and critic move, at each of `ENDS` of step 1."""
    log_prob = np.full(4, np.log(0.5))
    following = {"": 3, "terminated": 3, "truncated": 2}
    trajectories = stacked(
        *(
            rows(
                *[(0, 1.0, 1, ""), (1, 2.0, following[end], end), (3, 4.0, 4, ""), (4, 8.0, 2, "")],
                num_envs=1,
                log_prob=log_prob,
            )
            for end in ENDS
        )
    )
    return moved_on_policy(name, trajectories)


def moved_on_policy(name, trajectories, normalise_advantages=False):
    agent = PRESETS[name]().replace(
        **ON_POLICY
        | {
            "num_envs": 1,
            "rollout_length": 4,
            "normalise_advantages": normalise_advantages,
        }
    )
    agent = agent.replace(rule=agent.rule.replace(lambda_=0.5, value_weight=0.5))
    state = started(agent, Line(num_states=5))
    state = state.replace(params=filled(state.params, value_head=VALUES))
    counts = np.zeros(len(trajectories.reward), int)
    after, _ = after_one_step(agent, state, trajectories, counts)
    return kernel(after.params, "output"), kernel(after.params, "value_head")[..., 0] - VALUES


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ON_POLICY_ROWS)
def test_policies_follow_advantages_that_stop_at_a_cut_and_bootstrap_there(name, end):
    """The first step of every rule is the plain policy gradient: at ratio 1 clips and drifts have
    no slope. Of an even policy it is the mean over four steps of A (1/2, -1/2); its entropy has
    none. The critic's error is the advantage, and weighs 1/2."""
    policy, value = (moved[ENDS.index(end)] for moved in on_policy(name))
    advantages = np.zeros(5)
    advantages[[0, 1, 3, 4]] = ADVANTAGES[end]
    expected = np.outer(advantages / 8.0, [1.0, -1.0])
    np.testing.assert_allclose(policy, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value, advantages / 8.0, rtol=1e-4, atol=1e-6)


def test_standardised_advantages_have_mean_zero_and_may_all_be_alike():
    """Four terminating steps from state 0, worth 1: advantages 1, 3, 1, 3 become -1, 1, -1, 1, and
    four advantages of 1 become 0, where nothing is left to divide by."""
    log_prob = np.full(4, np.log(0.5))
    trajectories = stacked(
        *(
            rows(
                *[(state, reward, 1, "terminated") for state, reward in zip(s, r, strict=True)],
                num_envs=1,
                log_prob=log_prob,
            )
            for s, r in [((0, 1, 0, 1), (2.0, 5.0, 2.0, 5.0)), ((0, 0, 0, 0), (2.0,) * 4)]
        )
    )
    policy, _ = moved_on_policy("a2c", trajectories, normalise_advantages=True)
    expected = np.zeros((2, 5, 2))
    expected[0, :2] = [[-0.25, 0.25], [0.25, -0.25]]  # two steps of A (1/2, -1/2) / 4 each
    np.testing.assert_allclose(policy, expected, atol=1e-6)


# --- critics of (state, action) -------------------------------------------------------------------

# Each critic is a table over states and a slope in the action; the action done is 1/2.
ACTION = 0.5
ONLINE_CRITICS = np.array([[2.0, 1.0, 5.0, 1.0], [4.0, 2.0, 4.0, 3.0]])  # [critic, states + slope]
LAGGED_CRITICS = np.array([[7.0, 10.0, 6.0, 2.0], [8.0, 8.0, 1.0, -4.0]])
DONE = ONLINE_CRITICS[:, 0] + ONLINE_CRITICS[:, 3] * ACTION  # 2.5 and 5.5
# The policy's action in each state.
ONLINE_ACTIONS = np.array([-0.25, 0.5, 0.75])
LAGGED_ACTIONS = np.array([0.1, -0.5, 0.25])
NUM_ENVS = 4096  # all alike, so that the noise of a soft policy averages out
KAPPA = 1e3  # a threshold within which the loss of a single quantile is e^2 / (4 kappa)
# A standard deviation of 0.001 + log 2, and the weight of DSAC-T's error when it is the mean one.
SPREAD = 1e-3 + np.log(2.0)


@dataclasses.dataclass(frozen=True)
class CriticCase:
    """An agent with critics, and what of it the worked example needs to know."""

    changes: dict
    next_actions: np.ndarray  # of the policy that the target asks
    weights: tuple[float, float]  # of the smaller and the greater critic in the target
    actor: object  # online values [C], slopes [C] -> the slope that the policy climbs
    # Errors [C] -> how far each critic's entry moves, twice, as the loss is a mean over critics.
    scale: object = staticmethod(lambda errors: errors)


def smallest(values, slopes):
    return slopes[np.argmin(values)]


def first(values, slopes):
    return slopes[0]


SOFT_CASE = ({}, ONLINE_ACTIONS, (1.0, 0.0), smallest)
TWIN_CASE = ({}, LAGGED_ACTIONS, (1.0, 0.0), first)
OPTIMISM = {"parts": (Optimism(level=0.75),)}
CRITIC_CASES = {
    "sac": CriticCase(*SOFT_CASE),
    "td3": CriticCase(*TWIN_CASE),
    "annealed_sac": CriticCase(
        OPTIMISM, *SOFT_CASE[1:], scale=lambda errors: np.where(errors < 0, 0.5, 1.5) * errors
    ),
    "annealed_td3": CriticCase(
        OPTIMISM,
        *TWIN_CASE[1:],
        scale=lambda errors: np.where(errors < 0, 0.5, 1.5) * errors,
    ),
    "dsac_t": CriticCase(
        {"operator": BellmanOperator(Gaussian(min_scale=1e-3))},
        *SOFT_CASE[1:],
        scale=lambda errors: SPREAD**2 / (SPREAD**2 + 0.1) * errors,
    ),
    # Two critics of one atom each: without the upper quarter, two thirds and one third are left.
    "tqc": CriticCase(
        {
            "operator": BellmanOperator(Quantile(num_atoms=1, huber_threshold=KAPPA)),
            "pessimism": TruncatedMixture(share=0.25),
            "num_critics": 2,
        },
        ONLINE_ACTIONS,
        (2 / 3, 1 / 3),
        lambda values, slopes: np.mean(slopes),
        scale=lambda errors: errors / (2.0 * KAPPA),
    ),
}


# The others are SAC or TD3 but for a head, a weight or a pessimism.
CRITIC_ROWS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in ("sac", "td3")))
    for name in CRITIC_CASES
]


def targets_of(case):
    """1 + half the lagged critics' value of the next state and action, `[3]` for `ENDS`."""
    values = LAGGED_CRITICS[:, :3] + LAGGED_CRITICS[:, 3:] * case.next_actions  # [critic, state]
    following = np.array(case.weights) @ np.sort(values, axis=0)
    return 1.0 + HALF * np.array([following[1], 0.0, following[2]])


def critic_tables(params, values):
    """Every critic's parameters from `values[C, 4]`; what else a head stores is zero."""
    table = np.zeros_like(kernel(params, "Dense_0"))
    table[..., 0] = values
    return filled(params, Dense_0=table)


def actor_tables(params, actions):
    loc = np.arctanh(actions)
    if "output" in params["params"]:
        return filled(params, output=loc)
    # A raw log-scale of -20 is the least, -5: the policy is nearly sure of its action.
    return filled(params, loc=loc, log_scale=np.full(STATES, -20.0))


@functools.cache
def criticised(name, log_temperature=-50.0, policy_delay=1, smoothing=0.0, counts=(0, 1)):
    """`(learner before, learners [count, end], metrics)` after the one transition at each end."""
    case = CRITIC_CASES[name]
    changes = FROM_REPLAY | case.changes
    if "td3" in name:
        changes |= {"policy_delay": policy_delay, "smoothing": smoothing, "smoothing_clip": 0.5}
    replay = UniformReplay(capacity=2 * NUM_ENVS, store_next=True)
    changes |= {"replay": replay, "target": EVERY_SECOND}
    agent = PRESETS[name]().replace(**changes | {"num_envs": NUM_ENVS, "batch_size": NUM_ENVS})
    state = started(agent, Line(discrete=False))
    learner, params = state.learner, state.learner.params
    critic = critic_tables(params.critic, LAGGED_CRITICS)
    params = params.replace(
        actor=actor_tables(params.actor, ONLINE_ACTIONS),
        critic=critic_tables(params.critic, ONLINE_CRITICS),
    )
    if "td3" in name:
        actor = actor_tables(params.actor, LAGGED_ACTIONS)
        lagged = {"target_params": params.replace(actor=actor, critic=critic)}
    else:
        params = params.replace(log_temperature=np.float32(log_temperature))
        lagged = {"target_critic": critic}
    state = state.replace(learner=learner.replace(params=params, **lagged))
    kind = {"discrete": False, "action": ACTION, "num_envs": NUM_ENVS}
    ends = [rows(step, step, **kind) for step in STEPS]
    after, metrics = after_one_step(
        agent, state, stacked(*(ends * len(counts))), np.repeat(counts, len(ENDS))
    )
    after, metrics = jax.tree.map(
        lambda leaf: leaf.reshape(len(counts), len(ENDS), *leaf.shape[1:]), (after, metrics)
    )
    return state.learner, after.learner, metrics


def critic_of(params):
    """The entries `[..., critic, states + slope]` of what a critic holds for the mean."""
    return kernel(params.critic, "Dense_0")[..., 0]


def actor_of(params):
    """The location of the policy before tanh, `[..., states]`."""
    name = "output" if "output" in params.actor["params"] else "loc"
    return kernel(params.actor, name)[..., 0]


def expected_critics(case, target):
    """Each critic's entry of the state moves by half its error, and its slope by half as much."""
    moved = ONLINE_CRITICS.copy()
    step = case.scale(target - DONE) / 2
    moved[:, 0] += step
    moved[:, 3] += step * ACTION
    return moved, step


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", CRITIC_ROWS)
def test_critics_move_to_what_the_lagged_ones_say_of_the_right_policy(name, end):
    case, row = CRITIC_CASES[name], ENDS.index(end)
    _, after, metrics = criticised(name)
    target = targets_of(case)[row]
    # The noise of the soft policies moves the mean target by about 1e-4.
    np.testing.assert_allclose(
        critic_of(after.params)[0, row], expected_critics(case, target)[0], atol=2e-3
    )
    np.testing.assert_allclose(metrics["q_value"][0, row], np.mean(DONE), rtol=1e-5)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", CRITIC_ROWS)
def test_the_policy_climbs_the_critics_that_have_just_moved(name, end):
    """By their slope in the action, times that of tanh, 1 - a^2, at the action -1/4 of state 0."""
    case, row = CRITIC_CASES[name], ENDS.index(end)
    _, after, _ = criticised(name)
    critics, bias = expected_critics(case, targets_of(case)[row])  # the bias moves with the entry
    action = ONLINE_ACTIONS[0]
    slope = case.actor(bias + critics[:, 0] + critics[:, 3] * action, critics[:, 3])
    expected = np.arctanh(ONLINE_ACTIONS)
    expected[0] += slope * (1.0 - action**2)
    np.testing.assert_allclose(actor_of(after.params)[0, row], expected, atol=3e-3)


@pytest.mark.parametrize("name", CRITIC_ROWS)
def test_the_lagged_critics_take_the_new_ones_at_every_second_update(name):
    before, after, _ = criticised(name)
    kept, copied = lagged_critics(after)
    np.testing.assert_array_equal(kept, np.broadcast_to(lagged_critics(before), kept.shape))
    np.testing.assert_array_equal(copied, critic_of(after.params)[1])


def lagged_critics(learner):
    return kernel(learner.lagged_critic, "Dense_0")[..., 0]


def test_td3_moves_its_policy_at_every_second_step_and_its_copies_at_every_fourth():
    """A delay of two, and copies that move with every second step of the policy."""
    before, after, _ = criticised("td3", policy_delay=2, counts=(0, 1, 2, 3))
    for done, moves, copies in [(0, 0, 0), (1, 1, 0), (2, 0, 0), (3, 1, 1)]:
        learner = jax.tree.map(lambda leaf, done=done: leaf[done, 0], after)
        assert learner.num_updates == done + 1
        policy_moved = np.any(actor_of(learner.params) != actor_of(before.params))
        assert policy_moved == bool(moves)
        source = learner.params if copies else before.target_params
        for of in (actor_of, critic_of):
            np.testing.assert_array_equal(of(learner.target_params), of(source))


def test_td3_smooths_the_lagged_action_by_clipped_noise():
    """Noise without bound is clipped to -1/2 or 1/2: from the lagged action 1/4 of state 2 to -1/4
    or 3/4, where the smaller critic is at 2 and at -2. So the target is 1 on average, with a
    standard error of 1/64 over 4096 draws, half of which reaches an entry."""
    _, after, _ = criticised("td3", smoothing=1e6)
    found = critic_of(after.params)[0, ENDS.index("truncated")]
    expected, _ = expected_critics(CRITIC_CASES["td3"], 1.0)
    np.testing.assert_allclose(found, expected, atol=0.04)


def mean_log_density(action):
    """Of a policy with standard deviation e^-5 round `action`: that of the normal, less the mean
    log slope of tanh."""
    return -(0.5 * np.log(2 * np.pi * np.e) - 5.0) - np.log(1.0 - action**2)


@pytest.mark.parametrize("end", ENDS)
def test_soft_targets_count_the_entropy_of_what_follows_and_not_of_what_was_done(end):
    """At temperature 1; a mean over 4096 draws of a log-density of variance 1/2 has a standard
    error of 0.011, a quarter of which reaches an entry."""
    case, row = CRITIC_CASES["sac"], ENDS.index(end)
    _, after, _ = criticised("sac", log_temperature=0.0)
    following = {"": ONLINE_ACTIONS[1], "truncated": ONLINE_ACTIONS[2]}.get(end)
    target = targets_of(case)[row]
    if following is not None:
        target -= HALF * mean_log_density(following)
    found = critic_of(after.params)[0, row]
    np.testing.assert_allclose(found, expected_critics(case, target)[0], atol=0.015)


def test_the_temperature_rises_by_what_the_entropy_of_the_state_lacks():
    """log temperature <- 0 - (entropy + 1), of the policy before its step, at state 0."""
    _, after, metrics = criticised("sac", log_temperature=0.0)
    entropy = -mean_log_density(ONLINE_ACTIONS[0])
    np.testing.assert_allclose(metrics["entropy"], entropy, atol=0.05)
    np.testing.assert_allclose(after.params.log_temperature, -(entropy + 1.0), atol=0.05)


def test_a_warm_policy_also_climbs_its_entropy():
    """The log-density of a sure tanh policy has slope 2 a in its location: to the middle."""
    _, after, _ = criticised("sac", log_temperature=0.0)
    _, cold, _ = criticised("sac")
    row = ENDS.index("terminated")  # the target, and so the critics, are the same
    moved = actor_of(after.params)[0, row] - actor_of(cold.params)[0, row]
    np.testing.assert_allclose(moved, [-2.0 * ONLINE_ACTIONS[0], 0.0, 0.0], atol=3e-3)
