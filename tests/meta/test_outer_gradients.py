"""Outer loops that differentiate, on a learner whose gradients are a line of NumPy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_learner as toy

from jaxrl import meta
from jaxrl.agents import GradientDescent
from jaxrl.core import Transition
from jaxrl.meta.inner import differentiable_iteration

KEY = jax.random.key(0)
NAMES = ("push", "aim", "discount")
START = np.array([toy.Toy.push, toy.Toy.aim, toy.Toy.discount])
NUM_LIVES, NUM_UPDATES, PER_UPDATE = 3, 2, 6
OUTER = meta.MetaGradient(
    meta.tuned(toy.Toy(), NAMES),
    toy.Walks(),
    meta.PolicyReturn(entropy_weight=0.3),
    toy.Watcher(NUM_UPDATES + 1),
    GradientDescent(learning_rate=0.5, momentum=0.5, max_grad_norm=None),
    num_lives=NUM_LIVES,
    num_updates=NUM_UPDATES,
)
PLAIN = toy.Toy(push=0.6, aim=-1.0)


def numbers_of(rule_params):
    return np.stack([np.asarray(rule_params[name], np.float64) for name in NAMES], axis=-1)


@jax.jit
def init(outer, key):
    return outer.init(key)


@functools.partial(jax.jit, static_argnums=2)
def run(outer, state, num_steps):
    """The states after each outer step, and the metrics."""

    def step(state, _):
        state, metrics = outer.step(state)
        return state, (state, metrics)

    return jax.lax.scan(step, state, None, num_steps)[1]


def row(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


@pytest.fixture(scope="module")
def whole():
    """Four outer steps of three lives that do not end: the state before, those after, metrics."""
    state = init(OUTER, KEY)
    state = state.replace(ends=np.full(NUM_LIVES, np.inf, np.float32))
    return (toy.raw(state), *toy.raw(run(OUTER, state, 4)))


# ---- the gradient --------------------------------------------------------------------------------


def test_an_outer_step_descends_the_mean_loss_of_the_states_after_each_update(whole):
    """The first state of a window is none of its making; every other one counts once."""
    _, after, metrics = whole
    numbers, velocity, starts = START, 0.0, np.full(NUM_LIVES, toy.Toy.start)
    for step in range(4):
        seen = row(after.memory, step)

        def loss(numbers, seen=seen, starts=starts):
            each = []
            for life in range(NUM_LIVES):
                x = toy.states_of(numbers, NUM_UPDATES, starts[life])
                rows = [(seen.place[life, k], seen.coin[life, k]) for k in (1, 2)]
                each += [toy.policy_loss(x[k], *rows[k - 1], 0.3) for k in (1, 2)]
            return np.mean(each)

        gradient = toy.slope(loss, numbers)
        np.testing.assert_allclose(metrics["meta_loss"][step], loss(numbers), rtol=1e-5)
        np.testing.assert_allclose(
            metrics["meta_gradient_norm"][step], np.linalg.norm(gradient), rtol=1e-4
        )
        starts = np.array([toy.states_of(numbers, NUM_UPDATES, x)[-1] for x in starts])
        velocity = 0.5 * velocity + gradient
        numbers = numbers - 0.5 * velocity
        np.testing.assert_allclose(
            numbers_of(row(after.rule_params, step)), numbers, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(after.lives.train.agent.params[step], starts, rtol=1e-5)
        # Trajectory k was collected by the state after k updates.
        np.testing.assert_allclose(seen.x[:, NUM_UPDATES, 0, 0], starts, rtol=1e-5)
    np.testing.assert_array_equal(after.step, [1, 2, 3, 4])
    np.testing.assert_array_equal(metrics["outer_critic_loss"], 7.0)
    np.testing.assert_array_equal(metrics["replaced_fraction"], 0.0)


@pytest.mark.slow
def test_a_transformation_of_optax_takes_the_steps_of_ours(whole):
    before, after, _ = whole
    outer = OUTER.replace(optimiser=optax.sgd(0.5, momentum=0.5))
    state = init(outer, KEY).replace(ends=before.ends)
    found = toy.raw(run(outer, state, 4))[0]
    for name in NAMES:
        np.testing.assert_allclose(found.rule_params[name], after.rule_params[name], rtol=1e-6)
    with pytest.raises(ValueError, match="makes no steps"):
        OUTER.replace(optimiser=3)


def test_no_step_of_a_life_is_seen_twice_and_none_is_left_out(whole):
    """Each place is shown to the critic once; the learner skips the rollout between windows."""
    _, after, _ = whole
    place = after.memory.place.swapaxes(0, 1)[..., 0]  # [lives, windows, rollouts, T]
    np.testing.assert_array_equal(place.reshape(NUM_LIVES, -1), [np.arange(4 * 9)] * NUM_LIVES)
    np.testing.assert_array_equal(after.memory.windows[-1], 4)
    np.testing.assert_array_equal(after.lives.train.iteration[:, 0], [2, 4, 6, 8])


def test_no_two_rollouts_updates_or_lives_share_a_key(whole):
    before, after, _ = whole
    spent = after.memory.spent[..., 0, :]  # of the first environment: both act in one call
    assert toy.num_distinct(spent) == 4 * NUM_LIVES * 3 * 3
    updates, born = after.lives.train.agent.spent, before.lives.train.agent.born
    assert toy.num_distinct(spent, updates, born) == 36 * NUM_LIVES + 4 * NUM_LIVES + NUM_LIVES


@functools.partial(jax.jit, static_argnums=4)
def slopes(outer, rule_params, life, critic, bootstrap):
    (loss, out), gradient = jax.value_and_grad(outer.window, has_aux=True)(
        rule_params, life, critic
    )
    if not bootstrap:
        return loss, gradient, out
    # From where the life will stand, with the keys that it will have.
    return loss, gradient, out, outer.objective.target(outer.tuned.agent, life.env, out[0].train)


@functools.cache
def window(objective):
    """One life's loss, gradient and trajectories under another objective."""
    state = init(OUTER, KEY)
    life, critic = first_of(state.lives), first_of(state.memory)
    outer = OUTER.replace(objective=objective)
    found = slopes(outer, outer.tuned.init(), life, critic, isinstance(objective, meta.Bootstrap))
    return toy.raw(found)


def first_of(tree):
    """The first life; of keys the first key."""
    return _first_of(tree)


@jax.jit
def _first_of(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


@pytest.mark.slow
def test_the_last_policy_alone_counts_where_it_is_asked_for():
    loss, gradient, (_, _, data) = window(meta.PolicyReturn(0.3, last_only=True))

    def expected(numbers):
        x = toy.states_of(numbers, NUM_UPDATES)[-1]
        return toy.policy_loss(x, data.observation[-1], data.trace[-1], 0.3)

    np.testing.assert_allclose(loss, expected(START), rtol=1e-5)
    np.testing.assert_allclose(numbers_of(gradient), toy.slope(expected, START), rtol=1e-4)


@pytest.mark.parametrize("num_further", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_bootstrap_goes_from_the_last_state_to_a_target_that_stands_still(num_further):
    """KL(target || learner): two updates by the rule, one by the plain agent, at its own states."""
    found = window(meta.Bootstrap(PLAIN, num_further=num_further, value_weight=0.2))
    loss, gradient, (_, _, data), target = found
    last = toy.states_of(START, NUM_UPDATES)[-1]
    goal = toy.states_of(START, num_further, last)[-1]
    goal = toy.states_of((PLAIN.push, PLAIN.aim, PLAIN.discount), 1, goal)[-1]
    np.testing.assert_allclose(target.agent.params, goal, rtol=1e-5)

    def expected(numbers):
        x = toy.states_of(numbers, NUM_UPDATES)[-1]
        return toy.match_loss(x, goal, data.observation[-1], 0.2)

    np.testing.assert_allclose(loss, expected(START), rtol=1e-4)
    np.testing.assert_allclose(numbers_of(gradient), toy.slope(expected, START), rtol=1e-3)
    # The other direction is another number.
    reverse = toy.match_loss(goal, last, data.observation[-1], 0.2)
    assert abs(reverse - expected(START)) > 0.01 * expected(START)


# ---- lives that end ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ending():
    """Lives of 4 updates, two windows, of which the first place's ends after one."""
    outer = OUTER.replace(tasks=toy.Walks(total_steps=4.0 * PER_UPDATE, spread=0.5))
    begun = init(outer, KEY)
    ends = np.array([2.0, 3.0, np.inf], np.float32) * PER_UPDATE
    return (toy.raw(begun), *toy.raw(run(outer, begun.replace(ends=ends), 4)))


def test_lives_restart_when_their_steps_are_spent_and_only_then(ending):
    _, after, metrics = ending
    # Place 0 ends after window 1; place 1, whose end lies inside window 2, and place 2 after 2.
    np.testing.assert_array_equal(after.births, [[2, 1, 1], [2, 2, 2], [3, 2, 2], [3, 3, 3]])
    renewed = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 1]], bool)
    np.testing.assert_allclose(metrics["replaced_fraction"], renewed.mean(1), rtol=1e-6)
    np.testing.assert_array_equal(after.lives.train.iteration == 0, renewed)
    np.testing.assert_array_equal(after.memory.windows == 0, renewed)
    np.testing.assert_array_equal(
        after.lives.train.agent.params[renewed], np.float32(toy.Toy.start)
    )
    assert np.all(after.lives.train.agent.params[~renewed] != toy.Toy.start)
    # An early end is for the first life of a place alone.
    np.testing.assert_array_equal(after.ends[1:], np.inf)
    for env in range(2):
        begins = after.lives.train.rollout.observation[..., env] == 0
        np.testing.assert_array_equal(begins, renewed)


def test_every_life_has_a_task_and_keys_of_its_own(ending):
    begun, after, _ = ending
    lives = after.lives
    born = np.concatenate([begun.lives.train.agent.born[None], lives.train.agent.born])
    keys = np.concatenate([begun.lives.train.key[None], lives.train.key])
    goals = np.concatenate([begun.lives.env.goal[None], lives.env.goal])
    number = np.concatenate([np.ones((1, NUM_LIVES)), after.births])
    num_lives = int(np.sum(after.births[-1]))
    assert toy.num_distinct(born) == num_lives == len(np.unique(goals))
    # A life keeps its task and its birth until it is replaced.
    for place in range(NUM_LIVES):
        for life in np.unique(number[:, place]):
            assert len(np.unique(goals[number[:, place] == life, place])) == 1
    assert toy.num_distinct(keys) == keys.shape[0] * NUM_LIVES  # each window has its own


def test_the_rule_and_its_optimiser_outlive_lives(ending):
    _, after, _ = ending
    numbers, velocity = numbers_of(after.rule_params), numbers_of(after.optimiser)
    for step in range(1, 4):
        moved = numbers[step] - numbers[step - 1]
        np.testing.assert_allclose(moved, -0.5 * velocity[step], rtol=1e-4, atol=1e-6)
    assert np.all(velocity[-1] != 0)


def test_the_first_ends_are_spread_over_a_lifetime():
    outer = OUTER.replace(num_lives=64, tasks=toy.Walks(total_steps=100.0))
    ends = np.sort(np.asarray(jax.jit(lambda key: outer.init(key).ends)(KEY)))
    # Sixty-four uniform draws: Kolmogorov's distance is under 0.2 with probability 0.99.
    share = (np.arange(64) + 0.5) / 64
    assert np.abs(ends / 100.0 - share).max() < 0.2 and ends[0] > 0.0 and ends[-1] < 100.0


def test_a_life_that_is_not_finite_is_left_out_counted_and_replaced(whole):
    """The step of the others is as if it were not there."""
    _, after, _ = whole
    state = init(OUTER, KEY)
    params = np.full(NUM_LIVES, toy.Toy.start, np.float32)
    params[1] = np.nan
    train = state.lives.train
    lives = state.lives.replace(train=train.replace(agent=train.agent.replace(params=params)))
    ends = np.full(NUM_LIVES, np.inf, np.float32)
    found, rows = toy.raw(run(OUTER, state.replace(lives=lives, ends=ends), 4))
    seen = row(after.memory, 0)  # the coins of the two that are left are the same

    def loss(numbers):
        x = toy.states_of(numbers, NUM_UPDATES)
        return np.mean(
            [
                toy.policy_loss(x[k], seen.place[life, k], seen.coin[life, k], 0.3)
                for life in (0, 2)
                for k in (1, 2)
            ]
        )

    expected = START - 0.5 * toy.slope(loss, START)
    np.testing.assert_allclose(numbers_of(row(found.rule_params, 0)), expected, rtol=1e-4)
    np.testing.assert_allclose(rows["nonfinite_fraction"], [1 / 3, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rows["meta_loss"][0], loss(START), rtol=1e-5)
    np.testing.assert_array_equal(found.births[-1], [1, 2, 1])


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_own_rules_move_apart_and_a_shared_one_does_not(cut):
    """By the gradient of its own life each, though fewer states are kept and parts are cut."""
    outer = OUTER.replace(own_rules=True)
    if cut:
        outer = outer.replace(keep_every=NUM_UPDATES, chunk=2)

    @jax.jit
    def advanced(outer, key):
        return outer.advance(outer.init(key))[0]

    after = toy.raw(advanced(outer, KEY))
    seen = after.memory
    for life in range(NUM_LIVES):

        def loss(numbers, life=life):
            x = toy.states_of(numbers, NUM_UPDATES)
            return np.mean(
                [
                    toy.policy_loss(x[k], seen.place[life, k], seen.coin[life, k], 0.3)
                    for k in (1, 2)
                ]
            )

        expected = START - 0.5 * toy.slope(loss, START)
        np.testing.assert_allclose(numbers_of(after.rule_params)[life], expected, rtol=1e-4)
    assert jax.eval_shape(outer.agent, after).push.shape == (NUM_LIVES,)


# ---- implicit gradients --------------------------------------------------------------------------


@functools.cache
def implicit(max_residual, num_rollouts=2):
    through = meta.ImplicitGradient(
        meta.NeumannSeries(num_terms=3, step_size=0.5),
        through_data=False,
        max_residual=max_residual,
        num_rollouts=num_rollouts,
    )
    outer = OUTER.replace(
        through=through,
        critic=toy.Watcher(NUM_UPDATES + 2 * num_rollouts),
        optimiser=GradientDescent(learning_rate=0.5, max_grad_norm=None),
        num_lives=2,
    )
    state = init(outer, KEY).replace(ends=np.full(2, np.inf, np.float32))
    return toy.raw(run(outer, state, 2))


def test_an_implicit_gradient_is_that_of_where_the_updates_led_on_data_of_its_own():
    """Three terms of the series for a Jacobian of `push`, the outer loss on every other rollout."""
    after, metrics = implicit(5.0)
    seen = row(after.memory, 0)
    x = toy.states_of(START, NUM_UPDATES)[-1]
    push, aim, discount = START
    each = []
    for life in range(2):
        loss = lambda x, life=life: np.mean(  # noqa: E731
            [toy.policy_loss(x[0], seen.place[life, k], seen.coin[life, k], 0.3) for k in (3, 5)]
        )
        v = toy.slope(loss, [x])[0] * (1.0 - (1.0 - 0.5 * push) ** 3) / push
        # Minus v times the derivatives of push (x - aim) - discount / 10.
        each.append(-v * np.array([x - aim, -push, -0.1]))
    expected = START - 0.5 * np.mean(each, axis=0)
    np.testing.assert_allclose(numbers_of(row(after.rule_params, 0)), expected, rtol=1e-4)
    left = [(1.0 - 0.5 * number) ** 3 for number in (push, expected[0])]
    np.testing.assert_allclose(metrics["implicit_residual"], left, rtol=1e-4)
    np.testing.assert_allclose(
        metrics["inner_gradient_norm"][0], abs(push * (x - aim) - 0.1 * discount), rtol=1e-4
    )
    np.testing.assert_array_equal(metrics["diverged_fraction"], 0.0)
    # The looks are data too: the environments go on from them, and no key comes twice.
    place = after.memory.place.swapaxes(0, 1)[..., 0]
    np.testing.assert_array_equal(place.reshape(2, -1), [np.arange(2 * 6 * 3)] * 2)
    assert toy.num_distinct(after.memory.spent[..., 0, :]) == 2 * 2 * 6 * 3
    np.testing.assert_allclose(seen.x[:, NUM_UPDATES:], x, rtol=1e-5)
    np.testing.assert_array_equal(after.lives.train.iteration[:, 0], [2, 4])


def test_lives_whose_system_was_not_solved_live_on_and_move_nothing():
    after, metrics = implicit(0.1)  # the residual is 0.614
    np.testing.assert_allclose(numbers_of(after.rule_params), [START, START], rtol=1e-6)
    np.testing.assert_array_equal(metrics["diverged_fraction"], 1.0)
    np.testing.assert_allclose(metrics["implicit_residual"], 0.1, rtol=1e-6)
    np.testing.assert_array_equal(after.births, 1)


# ---- lives that tune themselves ------------------------------------------------------------------


LEARNER = meta.SelfTuning(
    meta.tuned(toy.Toy(), NAMES),
    objective=meta.PolicyReturn(0.3, last_only=True),
    critic=toy.Watcher(NUM_UPDATES),
    optimiser=GradientDescent(learning_rate=0.5, momentum=0.5, max_grad_norm=None),
    num_updates=NUM_UPDATES,
)
SELF_TUNED = {
    "last": LEARNER,
    "every": LEARNER.replace(objective=meta.PolicyReturn(0.3)),
    "bootstrap": LEARNER.replace(
        objective=meta.Bootstrap(PLAIN, num_further=1, value_weight=0.2),
        critic=toy.Watcher(NUM_UPDATES + 1),
    ),
}


@functools.partial(jax.jit, static_argnums=3)
def tuned_life(key, learner, task, num_updates):
    """What the library makes of a life; and its windows one by one, as it goes."""
    life = learner.live(key, task, num_updates=num_updates)
    start = meta.Life.start(key, learner.tuned.agent, task)
    critic = learner.critic.init(key, task.env)

    def step(life, rule_params):
        loss, (after, rows, data) = learner.window(rule_params, life, critic)
        return after, (loss, data, rows)

    # The numbers before each window: those that were, and those watched after each but the last.
    begun = learner.tuned.init()
    before = jax.tree.map(
        lambda first, rest: jnp.concatenate([jnp.reshape(first, 1), rest[:-1]]), begun, life.watched
    )
    _, (losses, data, rows) = jax.lax.scan(step, start, before)
    return life, losses, data, rows


@pytest.mark.parametrize(
    "name", ["bootstrap", *(pytest.param(n, marks=pytest.mark.slow) for n in ("every", "last"))]
)
def test_a_life_tunes_itself_by_the_slope_of_what_it_does_next(name):
    learner = SELF_TUNED[name]
    per_step = learner.updates_per_step
    num_updates = 3 * per_step
    task = meta.Task(toy.Walk(), np.float32(1e6))
    life, losses, data, rows = toy.raw(tuned_life(KEY, learner, task, num_updates))
    place, coin = data.observation, data.trace
    watched = numbers_of(life.watched)
    numbers, velocity, x = START, 0.0, toy.Toy.start
    for step in range(2):  # the third looks at a rollout that is not lived

        def loss(numbers, goal=None, step=step, x=x):
            states = toy.states_of(numbers, NUM_UPDATES, x)
            if name == "last":
                # What is learned from next: the first rollout of the next window.
                return toy.policy_loss(states[2], place[step + 1, 0], coin[step + 1, 0], 0.3)
            if name == "every":
                first = toy.policy_loss(states[1], place[step, 1], coin[step, 1], 0.3)
                coming = toy.policy_loss(states[2], place[step + 1, 0], coin[step + 1, 0], 0.3)
                return (first + coming) / 2
            return toy.match_loss(states[2], goal, place[step, 2], 0.2)

        after = toy.states_of(numbers, per_step, x)[-1]
        goal = toy.states_of((PLAIN.push, PLAIN.aim, PLAIN.discount), 1, after)[-1]
        np.testing.assert_allclose(losses[step], loss(numbers, goal), rtol=1e-4)
        velocity = 0.5 * velocity + toy.slope(functools.partial(loss, goal=goal), numbers)
        numbers = numbers - 0.5 * velocity
        np.testing.assert_allclose(watched[step], numbers, rtol=1e-4, err_msg=f"step {step}")
        x = after
        np.testing.assert_allclose(data.extras["x"][step + 1, 0], x, rtol=1e-5)
    # Every step of the life is lived once, under keys of its own, and counts once.
    np.testing.assert_array_equal(place[..., 0].ravel(), np.arange(3 * num_updates))
    assert toy.num_distinct(data.extras["spent"][..., 0, :]) == 3 * num_updates
    rewards = data.reward.reshape(3, -1).mean(1)
    np.testing.assert_allclose(life.rates, rewards, rtol=1e-5)
    np.testing.assert_allclose(life.lifetime.lifetime_rate, rewards.mean(), rtol=1e-5)
    np.testing.assert_array_equal(life.lifetime.life.train.iteration, num_updates)
    np.testing.assert_allclose(rows[..., 2].ravel().sum(), data.reward.sum(), rtol=1e-5)


def test_numbers_stand_still_when_the_life_is_over():
    """A life of four updates in steps of three: the second is the last that tunes."""
    learner = SELF_TUNED["bootstrap"]
    task, endless = (meta.Task(toy.Walk(), np.float32(steps)) for steps in (4.0 * PER_UPDATE, 1e6))
    life, *_ = toy.raw(tuned_life(KEY, learner, task, 9))
    watched = numbers_of(life.watched)
    assert int(life.lifetime.life.train.iteration) == 4
    np.testing.assert_array_equal(watched[2], watched[1])
    # The first outer step is that of the long life, and its numbers drive the fourth update.
    long, *_ = toy.raw(tuned_life(KEY, learner, endless, 9))
    np.testing.assert_allclose(watched[0], numbers_of(long.watched)[0], rtol=1e-6)
    x = toy.states_of(watched[0], 1, toy.states_of(START, 3)[-1])[-1]
    np.testing.assert_allclose(life.lifetime.life.train.agent.params, x, rtol=1e-5)
    lived = toy.rate_of(toy.Toy.push, 4)
    np.testing.assert_allclose(life.rates, [lived[:3].mean(), lived[3], 0.0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(life.lifetime.lifetime_rate, lived.mean(), rtol=1e-5)


# ---- what the parts do ---------------------------------------------------------------------------


CRITIC = meta.OuterCritic(
    optimiser=GradientDescent(learning_rate=0.5, max_grad_norm=None),
    discount=0.8,
    lambda_=0.6,
    num_passes=2,
)
TABLE = np.array([0.5, -1.0, 2.0])


@pytest.mark.parametrize("cuts", [False, True], ids=["terminates", "truncates"])
def test_the_outer_critic_learns_lambda_returns_rollout_after_rollout(cuts):
    """Two rollouts of two environments, an end inside; two passes of gradient descent by hand."""
    generator = np.random.default_rng(0)
    env = toy.Walk(num_places=3)
    place = np.array([[0, 1, 2, 0], [1, 2, 0, 1]]).T  # [T, B]
    last = place == 2
    following = np.minimum(place + 1, 2)
    reward = generator.normal(size=(2, 4, 2)).astype(np.float32)
    data = meta_data(reward, place, following, last & ~np.bool_(cuts), last & np.bool_(cuts))

    @jax.jit
    def learn(data, table):
        state = CRITIC.init(KEY, env)

        def set_to(leaf):  # a table of weights, and a bias of zero
            return table if leaf.size == 3 else jnp.zeros_like(leaf)

        params = jax.tree.map(lambda leaf: set_to(leaf).reshape(leaf.shape), state.params)
        state = state.replace(params=params)
        first = jax.tree.map(lambda leaf: leaf[0], data)
        after, error = CRITIC.learn(state, env, data)
        values = CRITIC.values(after.params, env, jnp.arange(3))
        return CRITIC.advantages(state, env, first), values, error, after.progress.step

    (advantage, returns), values, error, count = learn(data, jnp.asarray(TABLE, jnp.float32))
    weights, bias, errors = TABLE.copy(), 0.0, []
    for index in (0, 1, 0, 1):
        value = weights[place] + bias
        ahead = weights[following] + bias
        target = np.zeros((4, 2))
        for t in range(3, -1, -1):
            after = ahead[t] if t == 3 else 0.6 * target[t + 1] + 0.4 * ahead[t]
            after = np.where(last[t], ahead[t] if cuts else 0.0, after)
            target[t] = reward[index, t] + 0.8 * after
        if not errors:
            np.testing.assert_allclose(returns, target, rtol=1e-5)
            np.testing.assert_allclose(advantage, target - value, rtol=1e-4, atol=1e-5)
        errors.append(np.mean((value - target) ** 2))
        pull = (value - target) / 8
        weights = weights - 0.5 * np.array([pull[place == s].sum() for s in range(3)])
        bias = bias - 0.5 * pull.sum()
    np.testing.assert_allclose(values, weights + bias, rtol=1e-4)
    np.testing.assert_allclose(error, np.mean(errors[:2]), rtol=1e-5)  # before learning
    assert int(count) == 4


def meta_data(reward, place, following, terminated, truncated):
    """Rollouts `[K, T, B]` that visit the same places."""
    many = lambda leaf: np.broadcast_to(leaf, reward.shape)  # noqa: E731
    return Transition(
        observation=many(place),
        action=many(place * 0),
        reward=reward,
        discount=many(1.0 - terminated).astype(np.float32),
        next_observation=many(following),
        terminated=many(terminated),
        truncated=many(truncated),
        extras={},
    )


def test_a_differentiable_iteration_is_that_of_training_with_the_discount_put_back():
    """The next state's slopes in the agent's numbers, none of them through the data."""

    @jax.jit
    def found(numbers):
        agent = toy.Toy(*numbers)
        life = meta.Life.start(KEY, agent, meta.Task(toy.Walk(), jnp.float32(1e6)))

        def last(numbers):
            train, data, _ = differentiable_iteration(toy.Toy(*numbers), life.env, life.train)
            return train.agent.params, (data, train)

        slope, (data, train) = jax.jacrev(last, has_aux=True)(numbers)
        return slope, data.discount, train.agent.params, train.iteration, life.train.iteration

    numbers = tuple(np.float32(START))
    slope, discount, x, after, before = found(numbers)
    expected = toy.slope(lambda numbers: toy.states_of(numbers, 1)[-1], START)
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
    np.testing.assert_allclose(discount, 0.9, rtol=1e-6)
    np.testing.assert_allclose(x, toy.states_of(START, 1)[-1], rtol=1e-6)
    assert (int(before), int(after)) == (0, 1)
