"""Sweeps: numbers that do not depend on neighbours, no recompilation, bad seeds, bad input."""

from __future__ import annotations

import functools
import math
from dataclasses import fields
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import KEY, Clock, Diary, num_different, spent

from jaxrl.agents import PRESETS, Optimiser
from jaxrl.core import Box, list_settings, notation, struct
from jaxrl.envs import TabularEnv, riverswim
from jaxrl.networks import NetworkSettings
from jaxrl.training import (
    Checkpoints,
    Silent,
    lanes as groups,
    loop,
    memory as memories,
    programs,
    session,
    sweep,
    sweeps,
    train,
)

DIARY, CLOCK = Diary(num_envs=2, rollout_length=8, num_pages=12), Clock(length=5.0)
AGENT = PRESETS["a2c"]().replace(
    network=NetworkSettings(hidden_sizes=(8,), initialiser="lecun"),
    optimiser=Optimiser(learning_rate=1e-2),
    num_envs=2,
    rollout_length=8,
)
RUN = {"num_steps": 16 * 12, "num_records": 3}  # 3 records of 4 iterations of 16 steps
RATES = {"learning_rate": [0.1, 0.3]}


def run(num_seeds=1, **options):
    return sweep(KEY, DIARY, CLOCK, num_seeds=num_seeds, **(RUN | options))


@functools.cache
def river():
    return TabularEnv(riverswim(4), time_limit=5.0)


def lane(result, setting, seed):
    """Everything that one run left."""
    return {
        "metrics": {name: values[setting, seed] for name, values in result.metrics.items()},
        "state": jax.tree.map(lambda leaf: np.asarray(leaf)[setting, seed], result.agent_states),
    }


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(one, other, rtol=1e-6, atol=0.0):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


class CompileCounter:
    """Counts the programs that XLA builds, whoever asks."""

    def __init__(self):
        self.count = 0

    def __call__(self, event: str, duration: float, **_):
        self.count += "backend_compile" in event


@pytest.fixture(scope="module")
def compiles():
    counter = CompileCounter()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter)


# Wide programs serve in every run; those of one lane, which are others, hold the same if asked.
WIDTHS = [
    pytest.param(1, id="one_lane", marks=pytest.mark.slow),
    pytest.param(4, id="four_lanes"),
]


@pytest.fixture(scope="module", params=WIDTHS)
def width(request):
    return request.param


@pytest.fixture(scope="module")
def five(width):
    return run(5, lanes=width)


# --- neighbours ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_seed_s_numbers_do_not_depend_on_how_many_run_beside_it(five, width, num_seeds):
    fewer = run(num_seeds, lanes=width)
    for seed in range(num_seeds):
        assert_same_bits(lane(fewer, 0, seed), lane(five, 0, seed))


def test_a_later_share_of_the_seeds_is_the_same_seeds(five, width):
    later = run(2, lanes=width, first_seed=3)
    assert tuple(later.seeds) == (3, 4)
    for position, seed in enumerate(later.seeds):
        assert_same_bits(lane(later, 0, position), lane(five, 0, seed))


def test_seeds_are_different_lives(five):
    """No two keys of the five are the same: in each life one of `init`, 96 of `act`, 12 of
    `update`, 2 of the first resets, 38 of others (nineteen fives in 96 steps, twice) and 192 of
    steps. Their losses are the seeds' own."""
    rows = [spent(DIARY, lane(five, 0, seed)["state"], 2 * 19) for seed in range(5)]
    assert [len(life) for life in rows] == [1 + 96 + 12 + 2 + 38 + 192] * 5
    assert num_different(np.concatenate(rows)) == sum(map(len, rows))
    assert len(np.unique(five.metrics["loss"][0, :, 0])) == 5
    np.testing.assert_array_equal(five.metrics["number"], [[[1.5, 5.5, 9.5]] * 5])


@pytest.mark.slow
def test_settings_are_compared_on_the_same_keys(two_rates):
    for seed in range(2):
        first, second = (lane(two_rates, setting, seed)["state"] for setting in range(2))
        np.testing.assert_array_equal(spent(DIARY, first, 38), spent(DIARY, second, 38))


def test_a_seed_is_a_training_run_of_its_folded_key(five):
    single = alone_by_train()
    ours = lane(five, 0, 2)
    assert_close(single.metrics, ours["metrics"])
    assert_close(single.state.agent, ours["state"])
    np.testing.assert_array_equal(single.steps, five.steps)


@functools.cache
def alone_by_train():
    life = jax.jit(lambda key: train(key, DIARY, CLOCK, **RUN))(jax.random.fold_in(KEY, 2))
    return jax.device_get(life)


@pytest.mark.slow
def test_the_widths_agree_up_to_rounding():
    narrow, wide = run(3, lanes=1), run(3, lanes=4)
    for seed in range(3):
        assert_close(lane(narrow, 0, seed), lane(wide, 0, seed))


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 4])
def test_an_actor_critic_s_seed_is_a_training_run_of_its_folded_key(lanes):
    """The same for floats of a real agent, up to rounding that training amplifies."""
    swept = sweep(KEY, AGENT, river(), num_seeds=2, lanes=lanes, **RUN)
    single, ours = a2c_by_train(), lane(swept, 0, 1)
    assert_close(single.metrics, ours["metrics"], rtol=1e-3, atol=1e-4)
    assert_close(single.state.agent.params, ours["state"].params, rtol=1e-3, atol=1e-4)


@functools.cache
def a2c_by_train():
    life = jax.jit(lambda key: train(key, AGENT, river(), **RUN))(jax.random.fold_in(KEY, 1))
    return jax.device_get(life)


# --- settings ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_rates(width):
    return run(2, lanes=width, over=RATES)


def test_swept_settings_are_separate_runs(two_rates, width):
    assert two_rates.settings == [{"learning_rate": rate} for rate in (0.1, 0.3)]
    for setting, rate in enumerate([0.1, 0.3]):
        agent = DIARY.replace(learning_rate=rate)
        alone = sweep(KEY, agent, CLOCK, num_seeds=2, lanes=width, **RUN)
        for seed in range(2):
            assert_close(lane(alone, 0, seed), lane(two_rates, setting, seed))


def test_one_agent_s_state_is_its_row_of_all_of_them(two_rates):
    for setting, seed in ((0, 1), (1, 0)):
        one = two_rates.agent_state(setting, seed)
        assert_same_bits(one, lane(two_rates, setting, seed)["state"])
    for outside in ((0, 2), (2, 0), (0, -1)):
        with pytest.raises(IndexError, match="counted from 0"):
            two_rates.agent_state(*outside)


def test_a_diverged_run_is_reported_at_its_step_and_the_others_are_untouched(two_rates, width):
    """An error of at least 1 grows 1e5-fold in each iteration: its square, 1e40 in the fifth,
    passes the greatest float32 in the second record of four iterations of 16 steps."""
    bad = run(2, lanes=width, over={"learning_rate": [0.1, 1e5]})
    assert bad.diverged_at.tolist() == [[-1, -1], [80, 80]]
    assert two_rates.forecast.budget.num_records == 3
    for name in ("loss", "episode_return", "episode_length"):
        assert np.all(np.isfinite(two_rates.metrics[name]))
        shown = np.isfinite(bad.metrics[name][1])
        np.testing.assert_array_equal(shown, [[True, False, False]] * 2)
    assert np.all(bad.metrics["num_episodes"] > 0)
    alone = train(KEY, DIARY.replace(learning_rate=1e5), CLOCK, **RUN).metrics["episode_return"]
    np.testing.assert_array_equal(np.isfinite(alone), [True, False, False])
    for seed in range(2):
        assert_same_bits(lane(bad, 0, seed), lane(two_rates, 0, seed))
    assert np.all(two_rates.diverged_at == -1)


def test_several_settings_are_combined_in_order():
    over = {"learning_rate": [0.1, 0.2], "discount": [0.5, 0.6, 0.7]}
    combined = groups.expand_settings(AGENT, over)
    assert [tuple(one.values()) for one in combined] == [
        (rate, discount) for rate in (0.1, 0.2) for discount in (0.5, 0.6, 0.7)
    ]


def test_too_many_settings_are_refused_before_they_are_built():
    over = {"learning_rate": np.linspace(0.1, 0.2, 1000), "discount": np.linspace(0.1, 0.9, 1000)}
    with pytest.raises(ValueError, match="1000 x 1000 values combine to more than 100,000"):
        groups.expand_settings(AGENT, over)


def test_a_scheduled_setting_may_be_swept_over_constants():
    """PPO's learning rate decays by default; constants in its place are settings like others."""
    agent = PRESETS["ppo"]()
    assert groups.expand_settings(agent, {"learning_rate": [1e-4]}) == [{"learning_rate": 1e-4}]


# --- programs ------------------------------------------------------------------------------------


def test_new_seeds_and_numbers_compile_nothing(five, two_rates, width, compiles):
    # The small host-side programs, of these shapes, exist from here on.
    run(5, lanes=width, over=None)
    run(2, lanes=width, over=RATES)
    agent, env = Diary(0.7, 0.5, 2, 8, 12), Clock(length=4.0, truncates=1.0)
    before = (compiles.count, len(programs._PROGRAMS))
    first = sweep(jax.random.key(9), agent, env, num_seeds=5, lanes=width, **RUN)
    longer = RUN | {"num_steps": 16 * 24}
    sweep(KEY, DIARY, CLOCK, num_seeds=5, lanes=width, **longer)
    run(2, lanes=width, over={"learning_rate": [0.5, 0.6]})
    assert len(programs._PROGRAMS) == before[1]
    assert compiles.count == before[0]
    np.testing.assert_array_equal(first.metrics["episode_length"], np.full((1, 5, 3), 4.0))


@pytest.mark.slow
def test_whole_numbers_may_stand_where_floats_are_declared():
    """`length=5` is the 5.0 of the others; an integer is another type, so another program."""
    whole, real = (
        sweep(KEY, DIARY, CLOCK.replace(length=length), num_seeds=1, lanes=4, **RUN)
        for length in (5, 5.0)
    )
    assert_same_bits(lane(whole, 0, 0), lane(real, 0, 0))


def test_the_counter_does_count(compiles):
    before = compiles.count
    jax.jit(lambda x: x * 3.25 + before)(jnp.ones(3))
    assert compiles.count > before


# --- going on ------------------------------------------------------------------------------------


class StopAt(Silent):
    """Stops after so many chunks, and remembers what it saw."""

    def __init__(self, chunks: int):
        self.left, self.shares, self.records, self.first = chunks, [], [], None

    def on_start(self, forecast, first_record, metrics):
        self.first = first_record

    def on_chunk(self, share):
        self.shares.append(share)
        self.left -= 1
        return self.left == 0

    def on_record(self, record, metrics):
        self.records.append(record)


STOPS = [[1], [2], [1, 1], [1, 2]]
# In the middle of a record and later, over four lanes; the rest if asked.
OFTEN = ["four_lanes-stops3"]


def stopped():
    for width, name in ((1, "one_lane"), (4, "four_lanes")):
        for number, stops in enumerate(STOPS):
            row = f"{name}-stops{number}"
            marks = [] if row in OFTEN else [pytest.mark.slow]
            yield pytest.param(width, stops, id=row, marks=marks)


@pytest.mark.parametrize(("width", "stops"), list(stopped()), indirect=["width"])
def test_an_interrupted_sweep_goes_on_to_the_same_bits(tmp_path, five, width, stops):
    """The first chunk is one iteration of the four of a record: the first stop is in its middle."""
    checkpoints = Checkpoints(tmp_path)
    records = []
    for chunks in stops:
        observer = StopAt(chunks)
        part = run(5, lanes=width, observer=observer, checkpoints=checkpoints)
        records += observer.records
        assert part.interrupted and len(part.steps) == len(records)
        assert part.metrics["loss"].shape == (1, 5, len(records))
    assert 0 < observer.shares[-1] < 1
    last = StopAt(-1)
    whole = run(5, lanes=width, observer=last, checkpoints=checkpoints)
    assert not whole.interrupted and last.shares[-1] == 1.0
    assert records + last.records == [0, 1, 2] and last.first == len(records)
    for seed in range(5):
        assert_same_bits(lane(whole, 0, seed), lane(five, 0, seed))
    again = run(5, lanes=width, observer=(idle := StopAt(-1)), checkpoints=checkpoints)
    assert idle.shares == [] and idle.records == []
    assert_same_bits(again.metrics, five.metrics)


@pytest.mark.parametrize("width", [4], ids=["four_lanes"], indirect=True)
@pytest.mark.parametrize("done", [0, 3])
def test_a_sweep_stopped_between_two_groups_goes_on_to_the_same_bits(
    tmp_path, five, width, done, monkeypatch
):
    """Of five runs the first four are a step ahead: in iteration 1 of a record, and in its last."""
    checkpoints = stopped_between_groups(tmp_path, monkeypatch, 2 * done + 1, lanes=width)
    last = StopAt(-1)
    whole = run(5, lanes=width, observer=last, checkpoints=checkpoints)
    assert last.shares[0] == (done + 1) / 12 and last.records == [0, 1, 2]
    for seed in range(5):
        assert_same_bits(lane(whole, 0, seed), lane(five, 0, seed))


def stopped_between_groups(folder, monkeypatch, looks, *, lanes):
    """Checkpoints of five runs of which the groups were looked at one by one, `looks` times."""
    monkeypatch.setattr(programs, "_num_cores", lambda: 1)
    monkeypatch.setattr(session, "_CHUNK_SECONDS", 0.0)  # look after every group, span 1
    checkpoints, observer = Checkpoints(folder), StopAt(looks)
    part = run(5, lanes=lanes, observer=observer, checkpoints=checkpoints)
    groups = math.ceil(5 / lanes)
    spans, ahead = divmod(looks, groups)
    assert part.interrupted and ahead > 0
    assert observer.shares[-1] == pytest.approx((spans + ahead * lanes / 5) / 12, abs=1e-12)
    return checkpoints


@pytest.mark.parametrize(
    ("before", "after"),
    [(4, 2), pytest.param(2, 4, marks=pytest.mark.slow), (2, 3), (1, 4), (4, 1)],
)
@pytest.mark.parametrize("done", [0, 3])
def test_a_sweep_stopped_between_two_groups_goes_on_in_groups_of_any_width(
    tmp_path, monkeypatch, before, after, done
):
    """Runs that are a step ahead stay where they are while others of their new group follow.

    Programs of other widths may round otherwise; counts may not, nor what a run has lived through.
    """
    looks = done * math.ceil(5 / before) + 1  # one group is an iteration ahead
    checkpoints = stopped_between_groups(tmp_path, monkeypatch, looks, lanes=before)
    runs = sweeps.Runs(num_seeds=5, lanes=after, **RUN)
    _, agents = sweeps.restore_agents(checkpoints, DIARY, CLOCK, runs)
    pages = np.asarray(agents.number)[0].tolist()  # written so far by each run
    assert pages == [done + 1] * before + [done] * (5 - before)
    whole, straight = run(5, lanes=after, checkpoints=checkpoints), run(5, lanes=after)
    assert not whole.interrupted
    for seed in range(5):
        assert_close(lane(whole, 0, seed), lane(straight, 0, seed))


def test_the_first_stop_is_inside_a_record(tmp_path):
    observer = StopAt(1)
    run(1, lanes=4, observer=observer, checkpoints=Checkpoints(tmp_path))
    assert observer.records == [] and observer.shares == [1 / 12]


def test_a_checkpoint_of_other_seeds_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    run(1, lanes=4, observer=StopAt(1), checkpoints=checkpoints)
    with pytest.raises(ValueError):
        run(3, lanes=4, checkpoints=checkpoints)


def test_every_float_of_every_functional_has_an_axis_of_its_own():
    """Also where 0, the number of the axis, is out of the setting's range."""
    tried = 0
    for name in notation.KINDS["functionals"].builders:
        functional = notation.default_of("functionals", name)
        for info in list_settings(functional):
            if info.is_leaf and info.value is not None:
                axes = groups.lane_axes(functional, [info.name])
                assert jax.tree.leaves(axes) == [0] and attrgetter(info.name)(axes) == 0
                tried += 1
    assert tried > 20


@struct.dataclass
class Undeclared(Diary):
    """Its rate is a plain float."""

    learning_rate: float = 0.5


def test_a_float_that_nobody_declared_is_swept():
    agent = Undeclared(**{field.name: getattr(DIARY, field.name) for field in fields(DIARY)})
    plain = sweep(KEY, agent, CLOCK, num_seeds=1, over=RATES, **RUN)
    assert_same_bits(plain.metrics, run(1, over=RATES).metrics)
    assert num_different(np.asarray(plain.agent_states.weight)) == 2


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "over, error, message",
    [
        ({"learning_rat": [0.1]}, KeyError, "did you mean .*learning_rate"),
        ({"num_envs": [4, 8]}, ValueError, "not a float"),
        ({"network.activation": ["relu"]}, ValueError, "not a float"),
        ({"discount": [0.9, 1.5]}, ValueError, "discount=1.5 is out of range"),
        ({"discount": []}, ValueError, "no values"),
    ],
)
def test_settings_that_cannot_be_swept_are_refused(over, error, message):
    with pytest.raises(error, match=message):
        sweep(KEY, AGENT, river(), num_seeds=1, over=over, **RUN)


@pytest.mark.parametrize(
    "options", [{"num_seeds": 0}, {"num_steps": 0}, {"num_records": 0}, {"num_steps": -5}]
)
def test_empty_budgets_are_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        run(**options)


def test_an_agent_out_of_range_or_out_of_place_is_refused():
    with pytest.raises(ValueError, match="lambda_"):
        bad = AGENT.replace(rule=AGENT.rule.replace(lambda_=2.0))
        sweep(KEY, bad, river(), num_seeds=1, **RUN)

    @struct.dataclass
    class Odd:
        observation_space = Box(0.0, 1.0, (2,))
        action_space = Box(0, 3, (2,), jnp.int32)
        reset = step = print

    with pytest.raises(ValueError, match="actions must be real numbers"):
        sweep(KEY, AGENT, Odd(), num_seeds=1, **RUN)


def test_too_many_seeds_are_refused_with_the_number_that_fits(monkeypatch):
    """Free memory is read from a machine that has just room for a few of the lives."""
    needed = run(5, lanes=4).forecast.memory
    room = needed.working * needed.num_workers + 3 * needed.per_group
    monkeypatch.setattr(programs, "available_bytes", lambda: room)
    with pytest.raises(MemoryError, match=r"At most --num-seeds \d+ fit") as caught:
        run(2000, lanes=4)
    fits = int(str(caught.value).split("--num-seeds ")[1].split()[0])
    each = needed.per_group + 4 * needed.metrics / 5
    assert fits == 4 * int(room / each)  # before anything is compiled: states and records alone
    monkeypatch.setattr(programs, "available_bytes", lambda: 10)
    with pytest.raises(MemoryError, match="Not even one seed fits"):
        run(1, lanes=4)


@pytest.mark.parametrize(
    "available, lanes, num_settings, fits",
    [(1000, 1, 1, 8), (1000, 4, 1, 32), (1000, 4, 2, 16), (299, 1, 1, 0)],
)
def test_the_memory_plan_by_hand(available, lanes, num_settings, fits):
    """Two workers take 100 each at once; every group stays with 100."""
    need = memories.MemoryNeed(100, 100, num_groups=50, num_workers=2, available=available)
    assert need.total == 5200
    with pytest.raises(MemoryError, match=f"--num-seeds {fits} fit" if fits else "Not even one"):
        need.check(lanes, num_settings)
    memories.MemoryNeed(100, 100, num_groups=8, num_workers=2, available=1000).check(1, 1)


# --- needs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [1, 15, 16, 17, 160, 1000, 4801])
@pytest.mark.parametrize("num_records", [1, 3, 100])
def test_a_need_rounds_up_to_whole_records(num_steps, num_records):
    budget = loop.cut_budget(AGENT, num_steps, num_records)
    assert budget.steps == 16 and 1 <= budget.num_records <= num_records
    assert budget.total_steps >= num_steps
    # No record could be left out.
    assert budget.total_steps - budget.steps_per_record < num_steps


def test_a_plan_of_a_very_long_life_has_as_many_records_as_it_needs():
    """At the default of 100: no record has more updates than a float32 counts one by one."""
    budget = loop.cut_budget(AGENT, 10**13)
    assert budget.iterations <= 2**24 and budget.total_steps - budget.steps_per_record < 10**13
    assert loop.cut_budget(AGENT, 100 * 16 * 2**24).num_records == 100
    life = jax.eval_shape(lambda: train(KEY, DIARY, CLOCK, num_steps=10**13))
    assert life.steps.shape == (budget.num_records,)


@pytest.mark.slow  # a program for each width
@pytest.mark.parametrize("widths", [(2, 3), (3, 1)])
def test_a_sweep_goes_on_with_another_number_of_lanes(tmp_path, widths):
    """As on another number of devices; the numbers are those of one that never stopped, to the
    rounding of another program."""
    checkpoints = Checkpoints(tmp_path)
    first, then = widths
    part = run(5, lanes=first, observer=StopAt(2), checkpoints=checkpoints)
    assert part.interrupted
    whole = run(5, lanes=then, checkpoints=checkpoints)
    alone = run(5, lanes=then)
    assert not whole.interrupted
    for name, rows in alone.metrics.items():
        np.testing.assert_allclose(whole.metrics[name], rows, rtol=1e-3, atol=1e-3)


def test_checkpoints_of_another_sweep_are_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    run(5, lanes=1, observer=StopAt(1), checkpoints=checkpoints)
    saved = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for changes in ({"first_seed": 1}, {"num_records": 1}):
        with pytest.raises(ValueError, match="saved by another run"):
            run(5, lanes=1, checkpoints=checkpoints, **changes)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == saved
