"""Curated levels: a buffer that keeps the best, and scores of whole lives alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import a2c, meta
from jaxrl.agents.optimiser import GradientDescent
from jaxrl.networks import NetworkSettings

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
TABLE = NetworkSettings(hidden_sizes=(), initialiser="lecun")
FILLED = np.array([True, True, False, True, True])
SCORES = np.where(FILLED, [0.5, 2.0, 0.0, -1.0, 1.0], -np.inf)
DRAWN_AT = np.array([3, 9, 0, 1, 10])


def reference(transform, staleness):
    """Probabilities of Jiang et al. 2021 for the buffer above, after 10 draws."""
    scores = SCORES[FILLED]
    if isinstance(transform, meta.RankScores):
        rank = 1 + np.sum(scores[:, None] < scores, axis=1)
        odds = (1.0 / rank) ** (1.0 / transform.temperature)
    elif isinstance(transform, meta.ProportionalScores):
        odds = np.maximum(scores, 0.0) ** (1.0 / transform.temperature)
    else:
        odds = np.exp(scores / transform.temperature)
    age = 10.0 - DRAWN_AT[FILLED]
    probs = np.zeros(5)
    probs[FILLED] = (1 - staleness) * odds / odds.sum() + staleness * age / age.sum()
    return probs


def filled_buffer(replay):
    return replay.init(jnp.zeros(())).replace(
        levels=jnp.arange(5.0),
        scores=jnp.asarray(SCORES, jnp.float32),
        drawn_at=jnp.asarray(DRAWN_AT, jnp.int32),
        ids=jnp.asarray(np.where(FILLED, np.arange(5) + 20, -1), jnp.int32),
        num_draws=jnp.asarray(10, jnp.int32),
        next_id=jnp.asarray(25, jnp.int32),
    )


NUM_DRAWS = 20_000
FRESH = 100.0 + np.arange(NUM_DRAWS, dtype=np.float32)
insert = jax.jit(lambda replay, *rest: replay.insert(*rest))


@jax.jit
def draw(replay, buffer, wanted):
    return replay.probs(buffer), *replay.draw(KEY, buffer, jnp.asarray(FRESH), wanted)


@pytest.mark.parametrize("staleness", [0.0, 0.3])
@pytest.mark.parametrize(
    "transform",
    [meta.RankScores(0.7), meta.ProportionalScores(2.0), meta.SoftmaxScores(0.5)],
    ids=lambda transform: type(transform).__name__,
)
def test_levels_are_drawn_with_their_probabilities(transform, staleness):
    replay = meta.LevelReplay(transform, replay_prob=0.75, staleness=staleness, num_levels=5)
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
    empty = replay.init(jnp.zeros(()))
    probs, _, _, _, old = draw(replay.replace(min_filled=0.0), empty, everywhere)
    assert not old.any() and not probs.any()


def test_entries_keep_their_place_and_push_out_the_lowest():
    """Against a list of (id, score, level), one entry after the other."""
    replay = meta.LevelReplay(num_levels=4)
    buffer, held = replay.init({"level": jnp.zeros(2)}), []
    for round_number in range(12):
        ids = RANDOM.integers(0, 14, size=3)
        scores = RANDOM.normal(size=3).astype(np.float32)
        scores[0] = [scores[0], np.nan, np.inf][round_number % 3]
        counts = RANDOM.random(3) < 0.8
        levels = np.stack([ids, np.full(3, round_number)], axis=1).astype(np.float32)
        buffer = insert(
            replay,
            buffer,
            {"level": jnp.asarray(levels)},
            jnp.asarray(ids, jnp.int32),
            jnp.asarray(scores),
            jnp.asarray(counts),
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


# ---- an outer loop on curated levels -----------------------------------------------------------

NUM_UPDATES = 24
LEARNER = a2c().replace(  # learns nothing to speak of: its regret is known
    network=TABLE,
    num_envs=4,
    rollout_length=8,
    normalise_advantages=False,
    optimiser=GradientDescent(learning_rate=1e-9, max_grad_norm=None),
)
ANTAGONIST = LEARNER.replace(
    normalise_advantages=True, optimiser=GradientDescent(learning_rate=1.0, max_grad_norm=None)
)
OUTER = meta.MetaGradient(
    meta.tuned(LEARNER, ["rule.entropy_weight"]),
    meta.RandomBandits(total_steps=NUM_UPDATES * 32.0, num_arms=3),
    meta.PolicyReturn(last_only=True),
    meta.OuterCritic(optimiser=GradientDescent(learning_rate=0.1, max_grad_norm=None)),
    num_lives=4,
    num_updates=4,
)
CURATED = meta.Curated(
    OUTER,
    ANTAGONIST,
    meta.LevelReplay(num_levels=16, min_filled=0.25, replay_prob=0.5),
    num_episodes=256,
    max_steps=1,
)
init, step = jax.jit(CURATED.init), jax.jit(CURATED.step)


@pytest.fixture(scope="module")
def run(quick_compilation):
    """Sixty outer steps: ten lives in each place, the first of them cut short."""
    state = init(KEY)
    states, rows = [state], []
    for _ in range(60):
        state, metrics = step(state)
        states.append(state)
        rows.append({name: float(value) for name, value in metrics.items()})
    return states, rows


def test_whole_lives_alone_are_scored(run):
    states, rows = run
    scored, births = 0, 0
    for before, after, row in zip(states[:-1], states[1:], rows, strict=True):
        # Old enough to end in this step, in updates of 32 steps.
        age = np.asarray(before.outer.lives.train.iteration) + 4
        whole = age >= NUM_UPDATES
        over = np.asarray(after.outer.births) - np.asarray(before.outer.births) > 0
        assert np.all(over[whole])
        assert np.isnan(row["regret"]) == (not whole.any())
        if not before.levels.filled.all():
            assert set(np.asarray(before.ids)[whole]) <= set(after.levels.ids.tolist())
        scored += len(set(np.asarray(before.ids)[whole]) - set(before.levels.ids.tolist()))
        births += int(over.sum())
        # Lives and antagonists are of one age, in one task.
        ours, theirs = after.outer.lives, after.antagonists
        np.testing.assert_array_equal(ours.train.iteration, theirs.train.iteration)
        np.testing.assert_array_equal(ours.env.means, theirs.env.means)
    # Each place loses its first life early, at most one of them having lived to its end.
    assert scored > 16 and bool(states[-1].levels.filled.all())
    assert births >= scored + 3
    assert any(row["replayed_fraction"] > 0 for row in rows)


def test_the_score_is_what_a_trained_antagonist_earns_more(run):
    """A learner that pulls at random earns the mean arm; the antagonist comes near the best."""
    levels = run[0][-1].levels
    filled = np.asarray(levels.filled)
    means = np.asarray(levels.levels.env.means)[filled]
    gap = means.max(axis=1) - means.mean(axis=1)
    np.testing.assert_allclose(np.asarray(levels.scores)[filled], gap, atol=0.1)
    assert np.corrcoef(np.asarray(levels.scores)[filled], gap)[0, 1] > 0.9
    # The mean gap of three arms that are uniform on [0, 1] is 3/4 - 1/2; the best ones are kept.
    assert gap.mean() > 0.3


def test_the_outer_critic_learns_in_curated_levels():
    """Its loss falls along lives that begin together."""
    state, losses = init(KEY), []
    state = state.replace(outer=state.outer.replace(ends=jnp.full(4, jnp.inf, jnp.float32)))
    for _ in range(NUM_UPDATES // 4):
        state, metrics = step(state)
        losses.append(float(metrics["outer_critic_loss"]))
    assert np.mean(losses[-2:]) < 0.75 * losses[0], losses


def test_unequal_budgets_are_refused():
    unequal = CURATED.replace(antagonist=ANTAGONIST.replace(num_envs=8))
    with pytest.raises(ValueError, match="equal budgets"):
        unequal.init(KEY)


@pytest.mark.slow
@pytest.mark.parametrize(
    "outer",
    [
        OUTER.replace(own_rules=True, chunk=2),
        OUTER.replace(through=meta.ImplicitGradient(meta.NeumannSeries(num_terms=5))),
    ],
    ids=["own rules in chunks", "implicit"],
)
def test_any_meta_gradient_runs_on_curated_levels(outer):
    curated = CURATED.replace(outer=outer)
    found = meta.fit(KEY, curated, num_steps=12, chunk_steps=12)
    assert found.metrics["nonfinite_fraction"].max() == 0.0
    assert np.isfinite(found.metrics["regret"]).any()
    assert found.state.levels.filled.sum() > 0
    shape = jnp.shape(found.agent.rule.entropy_weight)
    assert shape == ((4,) if outer.own_rules else ())
