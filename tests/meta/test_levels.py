"""Curated levels: a buffer that keeps the best, and scores of whole lives alone."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_learner as toy

from jaxrl import meta
from jaxrl.agents import GradientDescent

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
FILLED = np.array([True, True, False, True, True])
SCORES = np.where(FILLED, [0.5, 2.0, 0.0, -1.0, 1.0], -np.inf)
DRAWN_AT = np.array([3, 9, 0, 1, 10])


def reference(kind, staleness):
    """Probabilities of Jiang et al. 2021 for the buffer above, after 10 draws."""
    scores = SCORES[FILLED]
    temperature = TEMPERATURES[kind]
    if kind == "rank":
        rank = 1 + np.sum(scores[:, None] < scores, axis=1)
        odds = (1.0 / rank) ** (1.0 / temperature)
    elif kind == "proportional":
        odds = np.maximum(scores, 0.0) ** (1.0 / temperature)
    else:
        odds = np.exp({"softmax": 1.0, "own": 3.0}[kind] * scores / temperature)
    age = 10.0 - DRAWN_AT[FILLED]
    probs = np.zeros(5)
    probs[FILLED] = (1 - staleness) * odds / odds.sum() + staleness * age / age.sum()
    return probs


def filled_buffer(replay):
    return replay.init(np.float32(0.0)).replace(
        levels=np.arange(5, dtype=np.float32),
        scores=np.float32(SCORES),
        drawn_at=np.int32(DRAWN_AT),
        ids=np.int32(np.where(FILLED, np.arange(5) + 20, -1)),
        num_draws=np.int32(10),
        next_id=np.int32(25),
    )


NUM_DRAWS = 20_000
FRESH = 100.0 + np.arange(NUM_DRAWS, dtype=np.float32)
insert = jax.jit(lambda replay, *rest: replay.insert(*rest))


@jax.jit
def draw(replay, buffer, wanted):
    return replay.probs(buffer), *replay.draw(KEY, buffer, FRESH, wanted)


def own(scores, filled):
    return jnp.where(filled, 3.0 * scores, -jnp.inf)


TRANSFORMS = {**meta.LevelReplay.transforms, "own": own}
TEMPERATURES = {"rank": 0.7, "proportional": 2.0, "softmax": 0.5, "own": 2.0}


def replay_of(kind, **changes):
    return meta.LevelReplay(TRANSFORMS[kind], TEMPERATURES[kind], num_levels=5, **changes)


def test_probabilities_are_those_of_the_paper():
    @jax.jit
    def probs_of(replays, buffer):
        return [replay.probs(buffer) for replay in replays]

    rows = list(itertools.product(TRANSFORMS, (0.0, 0.3)))
    replays = [replay_of(kind, staleness=staleness) for kind, staleness in rows]
    found = probs_of(replays, filled_buffer(replays[0]))
    for replay, row, probs in zip(replays, rows, found, strict=True):
        expected = reference(*row)
        np.testing.assert_allclose(probs, expected, rtol=1e-5, err_msg=str(replay))


@pytest.mark.parametrize("staleness", [0.0, 0.3])
@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(kind, marks=[] if kind == "rank" else [pytest.mark.slow])
        for kind in meta.LevelReplay.transforms
    ],
)
def test_levels_are_drawn_with_their_probabilities(transform, staleness):
    replay = replay_of(transform, replay_prob=0.75, staleness=staleness)
    buffer, expected = filled_buffer(replay), reference(transform, staleness)
    wanted = np.arange(NUM_DRAWS) % 2 == 0
    probs, after, levels, ids, old = draw(replay, buffer, wanted)
    np.testing.assert_allclose(probs, expected, rtol=1e-5)
    levels, ids, old = np.asarray(levels), np.asarray(ids), np.asarray(old)
    np.testing.assert_allclose(np.mean(old), 0.75, atol=0.015)
    counts = np.bincount(levels[old].astype(int), minlength=5)
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.015)
    np.testing.assert_array_equal(ids[old], 20 + levels[old])
    # New levels are the ones given, and those that begin get numbers of their own.
    np.testing.assert_array_equal(levels[~old], FRESH[~old])
    begun = ids[~old & wanted]
    np.testing.assert_array_equal(begun, 25 + np.arange(begun.size))
    assert int(after.next_id) == 25 + begun.size and int(after.num_draws) == 10 + NUM_DRAWS // 2
    drawn = FILLED & (expected > 1e-3)
    np.testing.assert_array_equal(after.drawn_at, np.where(drawn, 10 + NUM_DRAWS // 2, DRAWN_AT))


def test_no_level_is_replayed_before_enough_are_known():
    everywhere = np.ones(NUM_DRAWS, bool)
    replay = meta.LevelReplay(replay_prob=1.0, min_filled=0.9, num_levels=5)
    assert not draw(replay, filled_buffer(replay), everywhere)[4].any()
    replay = replay.replace(min_filled=0.8)
    assert draw(replay, filled_buffer(replay), everywhere)[4].all()
    # Nor from an empty buffer, whatever is asked for.
    empty = jax.device_get(replay.init(np.float32(0.0)))
    probs, _, _, _, old = draw(replay.replace(min_filled=0.0), empty, everywhere)
    assert not old.any() and not probs.any()


def test_entries_keep_their_place_and_push_out_the_lowest():
    """Against a list of (id, score, level), one entry after the other."""
    replay = meta.LevelReplay(num_levels=4)
    buffer, held = replay.init({"level": np.zeros(2, np.float32)}), []
    for round_number in range(12):
        ids = RANDOM.integers(0, 14, size=3)
        scores = RANDOM.normal(size=3).astype(np.float32)
        scores[0] = [scores[0], np.nan, np.inf][round_number % 3]
        counts = RANDOM.random(3) < 0.8
        levels = np.stack([ids, np.full(3, round_number)], axis=1).astype(np.float32)
        buffer = insert(
            replay,
            buffer,
            {"level": levels},
            np.int32(ids),
            scores,
            counts,
        )
        for number, score, level, enters in zip(ids, scores, levels, counts, strict=True):
            known = [i for i, entry in enumerate(held) if entry[0] == number]
            if not enters or not np.isfinite(score):
                continue
            if known:
                held[known[0]] = (number, score, tuple(level))
            elif len(held) < 4:
                held.append((number, score, tuple(level)))
            elif score > min(entry[1] for entry in held):
                lowest = min(range(4), key=lambda i: held[i][1])
                held[lowest] = (number, score, tuple(level))
        rows = (buffer.ids, buffer.scores, buffer.levels["level"])
        ours = zip(*(row.tolist() for row in rows), strict=True)
        ours = [(i, s, tuple(level)) for i, s, level in ours if i >= 0]
        assert sorted(ours) == sorted(held)
    assert len(held) == 4


# ---- an outer loop on curated levels, of learners that are a line of arithmetic ------------------

NUM_LIVES, NUM_UPDATES, NUM_STEPS = 3, 2, 12
LEARNER, ANTAGONIST = toy.Toy(), toy.Toy(push=0.6, aim=1.5, start=0.25)
OUTER = meta.MetaGradient(
    meta.tuned(LEARNER, ["push", "aim"]),
    toy.Walks(total_steps=24.0, spread=0.5, cuts=True, num_places=3),  # four updates
    critic=toy.Watcher(NUM_UPDATES + 1),
    optimiser=GradientDescent(learning_rate=0.0, max_grad_norm=None),  # every life is known
    num_lives=NUM_LIVES,
    num_updates=NUM_UPDATES,
)
CURATED = meta.Curated(
    OUTER,
    ANTAGONIST,
    meta.LevelReplay(num_levels=32, min_filled=0.0, replay_prob=0.5),
    num_episodes=2,
    max_steps=8,
)
KINDS = {
    "plain": OUTER,
    "own rules in chunks, implicit": OUTER.replace(
        own_rules=True,
        chunk=2,
        critic=toy.Watcher(NUM_UPDATES + 2),
        through=meta.ImplicitGradient(meta.NeumannSeries(num_terms=2), through_data=False),
    ),
}


@functools.partial(jax.jit, static_argnums=2)
def steps_of(curated, key, num_steps):
    begun = curated.init(key)
    ends = jnp.array([12.0, jnp.inf, jnp.inf])  # the first life of place 0 is cut short

    def step(state, _):
        state, metrics = curated.step(state)
        return state, (state, metrics)

    def raw(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    start = begun.replace(outer=begun.outer.replace(ends=ends))
    _, rows = jax.lax.scan(step, start, None, num_steps)
    return jax.tree.map(raw, (begun, *rows))


@functools.cache
def run(kind):
    """A state before all steps, those after each, and their metrics, in NumPy."""
    curated = CURATED.replace(outer=KINDS[kind])
    return jax.device_get(steps_of(curated, KEY, NUM_STEPS))


def state_after(agent, num_updates):
    return toy.states_of((agent.push, agent.aim, agent.discount), num_updates, agent.start)[-1]


def regret_of(goal):
    """Of three steps that pay 1 - (x - goal)^2 and what the place pays to both."""
    ours, theirs = (state_after(agent, 4) for agent in (LEARNER, ANTAGONIST))
    return 3.0 * ((ours - goal) ** 2 - (theirs - goal) ** 2)


def check_levels(kind):
    """Every score, level, birth and replay of the run against a dictionary of levels."""
    begun, after, metrics = run(kind)
    age = np.zeros(NUM_LIVES, int)
    cut = np.array([True, False, False])
    births, scores = np.ones(NUM_LIVES, int), {}
    ids, goals = begun.ids, begun.outer.lives.env.goal
    known = dict(zip(ids.tolist(), goals.tolist(), strict=True))
    np.testing.assert_array_equal(ids, np.arange(NUM_LIVES))
    num_old = 0
    for step in range(NUM_STEPS):
        row = jax.tree.map(lambda leaf, step=step: leaf[step], after)
        age = age + NUM_UPDATES
        ended = age >= 4
        over = ended | cut
        cut = np.zeros(NUM_LIVES, bool)
        expected = regret_of(goals[ended])
        if ended.any():
            np.testing.assert_allclose(metrics["regret"][step], expected.mean(), rtol=1e-4)
        else:
            assert np.isnan(metrics["regret"][step])
        scores |= dict(zip(ids[ended].tolist(), expected.tolist(), strict=True))
        births, age = births + over, np.where(over, 0, age)
        # The buffer holds the levels of whole lives, each with the score of its last one.
        filled = row.levels.ids >= 0
        held = {int(i): at for at, i in enumerate(row.levels.ids) if i >= 0}
        assert set(held) == set(scores)
        for number, at in held.items():
            np.testing.assert_allclose(row.levels.scores[at], scores[number], rtol=1e-4)
            assert row.levels.levels.env.goal[at] == np.float32(known[number])
        np.testing.assert_allclose(metrics["filled_fraction"][step], filled.mean(), rtol=1e-6)
        if held:
            mean = np.mean(list(scores.values()))
            np.testing.assert_allclose(metrics["buffer_score"][step], mean, rtol=1e-3, atol=1e-5)
        # New lives are in known levels, or in levels of their own that nobody had.
        np.testing.assert_array_equal(row.ids[~over], ids[~over])
        np.testing.assert_array_equal(row.outer.lives.env.goal[~over], goals[~over])
        ids, goals = row.ids, row.outer.lives.env.goal
        old = np.array([number in scores for number in ids]) & over
        for place in np.flatnonzero(over):
            if old[place]:
                assert goals[place] == np.float32(known[int(ids[place])])
            else:
                assert int(ids[place]) not in known
                assert goals[place] not in np.float32(list(known.values()))
                known[int(ids[place])] = goals[place]
        num_old += old.sum()
        if over.any():
            np.testing.assert_allclose(metrics["replayed_fraction"][step], old[over].mean())
        # Beside every life is an antagonist of one age, in one task.
        np.testing.assert_array_equal(row.outer.births, births)
        for lives, agent in ((row.outer.lives, LEARNER), (row.antagonists, ANTAGONIST)):
            np.testing.assert_array_equal(lives.train.iteration, age)
            np.testing.assert_array_equal(lives.env.goal, goals)
            x = [state_after(agent, number) for number in age]
            np.testing.assert_allclose(lives.train.agent.params, x, rtol=1e-5)
    assert 0 < num_old < births.sum() - NUM_LIVES  # both kinds came up


def test_whole_lives_alone_are_scored():
    """By what the antagonist earns more in fresh episodes, exactly."""
    check_levels("plain")


def test_no_life_and_no_antagonist_share_a_key():
    begun, after, _ = run("plain")
    born = [
        np.concatenate([first[None], rest])
        for first, rest in (
            (begun.outer.lives.train.agent.born, after.outer.lives.train.agent.born),
            (begun.antagonists.train.agent.born, after.antagonists.train.agent.born),
        )
    ]
    num_lives = int(after.outer.births[-1].sum())
    assert [toy.num_distinct(keys) for keys in (*born, np.stack(born))] == [
        num_lives,
        num_lives,
        2 * num_lives,
    ]


def test_the_outer_critic_learns_in_curated_levels():
    """It is shown every window of its life, each once, and begins with the life."""
    _, after, _ = run("plain")
    age = after.outer.lives.train.iteration
    np.testing.assert_array_equal(after.outer.memory.windows, age // NUM_UPDATES)
    lived = age > 0
    assert np.all(after.outer.memory.x[lived][:, 0, 0, 0] == np.float32(LEARNER.start))


def test_unequal_budgets_are_refused():
    unequal = CURATED.replace(antagonist=ANTAGONIST.replace(num_envs=8))
    with pytest.raises(ValueError, match="equal budgets"):
        unequal.init(KEY)


@pytest.mark.slow
def test_any_meta_gradient_runs_on_curated_levels():
    check_levels("own rules in chunks, implicit")
