"""Checkpoints come back bit for bit, or are noticed to be damaged and passed over."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl.core import Linear
from jaxrl.operators import BellmanOperator, Categorical, Softmax
from jaxrl.training import Checkpoints, CheckpointWarning, identity


def tree_of(step: int) -> dict:
    """A state of every kind of leaf that agents and loops hold, different at every step."""
    return {
        "params": {
            "kernel": jnp.asarray(np.full((4, 3), 0.1 * step, np.float32)),
            "half": jnp.asarray(np.full(5, step, jnp.bfloat16)),
        },
        "ring": np.arange(300, dtype=np.uint8).reshape(3, 100) + np.uint8(step),
        "key": jax.random.split(jax.random.key(step), 2),
        "hardware_key": jax.random.key(step, impl="rbg"),
        "nothing": (),
        "none": None,
        "empty": jnp.asarray(np.zeros((0, 3), jnp.bfloat16)),
        "flags": (jnp.array([True, False]), jnp.int32(step)),
        "wide": np.int64(2**40 + step),
        "count": step,
        "not_finite": jnp.array([jnp.nan, -jnp.inf, -0.0]),
    }


def assert_same(tree: dict, expected: dict) -> None:
    """Same structure, types, dtypes and bits."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, like in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert type(leaf) is type(like)
        if isinstance(leaf, int):
            assert leaf == like
            continue
        assert leaf.dtype == like.dtype and leaf.shape == like.shape
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, like = jax.random.key_data(leaf), jax.random.key_data(like)
        assert np.asarray(leaf).tobytes() == np.asarray(like).tobytes()


@pytest.fixture
def two_saved(tmp_path: Path) -> Checkpoints:
    """Checkpoints of steps 1 and 2."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, tree_of(step), {"num_records": step})
    return checkpoints


def test_every_kind_of_leaf_comes_back_bit_for_bit(two_saved: Checkpoints) -> None:
    step, tree, extra = two_saved.restore(tree_of(0))
    assert (step, extra) == (2, {"num_records": 2})
    assert_same(tree, tree_of(2))
    # A restored key draws what the saved one would have drawn.
    draw = jax.random.normal(tree["key"][0], (3,))
    assert jnp.array_equal(draw, jax.random.normal(tree_of(2)["key"][0], (3,)))


def test_an_abstract_template_is_enough(tmp_path: Path) -> None:
    def init() -> dict:
        return {"key": jax.random.key(1), "weights": jnp.ones((2, 2)), "nothing": ()}

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, init())
    step, tree, extra = checkpoints.restore(jax.eval_shape(init))
    assert (step, extra) == (0, {})
    assert_same(tree, init())


def test_restored_arrays_do_not_compile_again(tmp_path: Path) -> None:
    traces = []

    @jax.jit
    def advance(state: dict) -> dict:
        traces.append(1)
        return jax.tree.map(lambda x: x + 1, state)

    state = advance({"a": jnp.zeros(3), "b": jnp.int32(0)})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    expected = advance(state)
    restored = advance(checkpoints.restore(state)[1])
    assert_same(restored, expected)
    assert len(traces) == 1


@pytest.mark.parametrize("tree", [(), {"empty": np.zeros((2, 0))}], ids=["no-leaf", "no-number"])
def test_a_tree_without_numbers(tmp_path: Path, tree: object) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, tree, {"note": None})
    step, restored, extra = checkpoints.restore(tree)
    assert (step, extra) == (3, {"note": None})
    assert jax.tree.map(np.shape, restored) == jax.tree.map(np.shape, tree)


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent").restore({}) is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 5, 10, 20):
        checkpoints.save(step, {"step": step})
    assert checkpoints.steps() == [10, 20]
    assert sorted(os.listdir(tmp_path)) == ["10", "20"]
    checkpoints.save(20, {"step": -20})  # the same step again replaces it
    assert checkpoints.restore({"step": 0})[:2] == (20, {"step": -20})


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "bit-flip": flip_a_bit,
    "cut": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "lost": lambda data: None,
}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            damage, id=name, marks=[] if name in ("bit-flip", "lost") else pytest.mark.slow
        )
        for name, damage in DAMAGES.items()
    ],
)
def test_damage_to_any_file_is_noticed(two_saved: Checkpoints, damage) -> None:
    newest = Path(two_saved.folder) / "2"
    files = [file for file in newest.rglob("*") if file.is_file() and file.stat().st_size]
    assert len(files) > 3
    for file in files:
        intact = file.read_bytes()
        file.unlink()
        if (damaged := damage(intact)) is not None:
            file.write_bytes(damaged)
        with pytest.warns(CheckpointWarning, match="checkpoint 2 .* is damaged"):
            step, tree, _ = two_saved.restore(tree_of(0))
        assert step == 1, file
        assert_same(tree, tree_of(1))
        file.write_bytes(intact)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert two_saved.restore(tree_of(0))[0] == 2


def test_array_data_exchanged_under_honest_file_digests_is_noticed(two_saved: Checkpoints) -> None:
    # The files of step 1 with their own digests, posing as step 2: neither set may be mixed.
    first, second = Path(two_saved.folder) / "1", Path(two_saved.folder) / "2"
    (second / "DIGESTS.json").write_bytes((first / "DIGESTS.json").read_bytes())
    with pytest.warns(CheckpointWarning, match="holds step 1"):
        assert two_saved.restore(tree_of(0))[0] == 1


def test_all_damaged_stops_and_each_is_named(two_saved: Checkpoints) -> None:
    for step in (1, 2):
        (Path(two_saved.folder) / str(step) / "DIGESTS.json").unlink()
    with (
        pytest.warns(CheckpointWarning) as seen,
        pytest.raises(ValueError, match=r"every checkpoint .* is damaged.*--overwrite"),
    ):
        two_saved.restore(tree_of(0))
    assert [str(w.message).split()[1] for w in seen] == ["2", "1"]
    assert two_saved.steps() == [1, 2]


def test_what_cannot_be_read_is_not_called_damaged(two_saved, monkeypatch) -> None:
    """Whatever file it is: one line, and everything stays as it is."""
    folder = Path(two_saved.folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    refused: list[Path] = []

    def guarded(original):
        def read(file, *arguments, **options):
            if Path(file) in refused:
                raise PermissionError(13, "Permission denied", str(file))
            return original(file, *arguments, **options)

        return read

    monkeypatch.setattr("builtins.open", guarded(open))
    monkeypatch.setattr(Path, "read_text", guarded(Path.read_text))
    for file in (folder / "2").rglob("*"):
        refused[:] = [file.absolute()] if file.is_file() else []
        if refused:
            with pytest.raises(OSError, match=r"checkpoint 2 .* cannot be read .*nothing was chan"):
                two_saved.restore(tree_of(0))
    refused.clear()
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert two_saved.restore(tree_of(0))[0] == 2


def test_a_folder_that_cannot_be_read_is_not_called_damaged(two_saved, monkeypatch) -> None:
    """Nor is its checkpoint put aside by the next one that is saved."""
    folder, scandir = Path(two_saved.folder).absolute(), os.scandir

    def guarded(path="."):
        if str(path) == str(folder / "2" / "state"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(OSError, match=r"checkpoint 2 .* cannot be read .*nothing was changed"):
        two_saved.restore(tree_of(0))
    with pytest.raises(OSError, match="Permission denied"):
        two_saved.save(1, tree_of(1))
    monkeypatch.undo()
    assert sorted(os.listdir(folder)) == ["1", "2"]
    assert two_saved.restore(tree_of(0))[0] == 2


@pytest.mark.parametrize("content", ["[" * 200_000, "[1]", '{"sha256": "0"}'])
def test_a_garbled_list_of_digests_is_damage(two_saved: Checkpoints, content: str) -> None:
    (Path(two_saved.folder) / "2" / "DIGESTS.json").write_text(content)
    with pytest.warns(CheckpointWarning, match="checkpoint 2 .* is damaged"):
        assert two_saved.restore(tree_of(0))[0] == 1


def test_a_run_whose_checkpoints_are_all_put_aside_does_not_begin_anew(two_saved) -> None:
    folder = Path(two_saved.folder)
    (folder / "damaged").mkdir()
    for step in (1, 2):
        (folder / str(step)).rename(folder / "damaged" / str(step))
    with pytest.raises(ValueError, match=r"every checkpoint .* is damaged.*--overwrite"):
        two_saved.restore(tree_of(0))


def test_a_checkpoint_belongs_to_its_run(tmp_path: Path) -> None:
    checkpoints, agent = Checkpoints(tmp_path), jaxrl.dqn()
    mine = identity.identity(agent=agent, key=jax.random.key(0))
    checkpoints.save(1, {"x": 1.0}, run=mine)
    assert checkpoints.restore({"x": 0.0}, mine)[0] == 1
    assert (
        checkpoints.restore({"x": 0.0}, identity.identity(agent=agent))[0] == 1
    )  # as far as is known
    others = {
        "agent.discount: 0.99.* != 0.5": identity.identity(agent=agent.replace(discount=0.5)),
        r"key: \[0, 0\].* != \[0, 1\]": identity.identity(agent=agent, key=jax.random.key(1)),
        r"agent.batch_size: \d+ .* != 7": identity.identity(agent=agent.replace(batch_size=7)),
        "agent: QNetworkAgent.* != ParallelQAgent": identity.identity(agent=jaxrl.pqn()),
    }
    for words, other in others.items():
        with pytest.raises(ValueError, match=rf"(?s)saved by another run.*{words}"):
            checkpoints.restore({"x": 0.0}, other)
    assert checkpoints.steps() == [1]


@pytest.mark.parametrize(
    ("agent", "former", "own"),
    [
        (jaxrl.sac(), "SoftActorCriticAgent", {"initial_temperature": "1.0"}),
        (jaxrl.td3(), "TwinDelayedAgent", {"policy_delay": "2"}),
        (jaxrl.td3(exploration=Linear(1.0, 0.5)), "TwinDelayedAgent", {"exploration.final": "0.5"}),
    ],
)
def test_a_checkpoint_of_a_former_class_belongs_to_what_took_its_place(agent, former, own) -> None:
    now = identity.identity(agent=agent)
    assert {f"agent.actor.{name}" for name in own} < set(now)
    then = {name.replace("agent.actor.", "agent."): text for name, text in now.items()}
    then = {name: text for name, text in then.items() if name != "agent.actor"}
    then |= {"agent": former, **{f"agent.{name}": text for name, text in own.items()}}
    identity.check_identity("here", then, now)
    for name in ("agent.discount", f"agent.{next(iter(own))}"):
        with pytest.raises(ValueError, match=rf"{name.rpartition('.')[2]}: 0.125 .checkpoint"):
            identity.check_identity("here", then | {name: "0.125"}, now)
    other = jaxrl.td3() if former == "SoftActorCriticAgent" else jaxrl.sac()
    with pytest.raises(ValueError, match=r"agent\.actor: .* != "):
        identity.check_identity("here", then, identity.identity(agent=other))


def test_what_agents_have_got_since_is_compared_where_it_is_set() -> None:
    now = identity.identity(agent=jaxrl.agents.NormalisedAgent(jaxrl.ppo()))
    then = {x: now[x] for x in now if not x.endswith((".actor_sees", ".policy_head"))}
    assert len(then) == len(now) - 2
    identity.check_identity("here", then, now)
    agent = jaxrl.agents.NormalisedAgent(jaxrl.ppo(actor_sees=("image",)))
    with pytest.raises(ValueError, match=r"actor_sees: absent .checkpoint. != 1 entries"):
        identity.check_identity("here", then, identity.identity(agent=agent))


FORMER = {"munchausen": "None", "stock": "None", "average_reward": "None", "channels": "None"}
CHAINED = {
    "dqn": FORMER | {"reward_shift": "0.0"},
    "munchausen_dqn": {**FORMER, "reward_shift": "0.0", "munchausen": "Munchausen"},
    "differential_dqn": {**FORMER, "reward_shift": "0.0", "average_reward": "AverageReward"},
    "annealed_td3": {"optimism": "Optimism"},
    "td3": {"optimism": "None"},
}


@pytest.mark.parametrize("name", CHAINED)
def test_a_checkpoint_from_before_there_was_a_chain_belongs_to_the_same_agent(name) -> None:
    """A part had a field of its own, empty where it was left out; one shift was a number."""
    now = identity.identity(agent=jaxrl.agents.preset(name))
    then = {path.replace("agent.parts.", "agent."): text for path, text in now.items()}
    then |= {f"agent.{part}": text for part, text in CHAINED[name].items()}
    identity.check_identity("here", then, now)
    for other in {"agent.reward_shift": "1.0"}, {"agent.munchausen.weight": "0.125"}:
        with pytest.raises(ValueError, match="another run"):
            identity.check_identity("here", then | other, now)


def test_what_a_part_remembers_is_found_where_it_was_a_field_of_the_agents(tmp_path) -> None:
    """The estimate `gain` was every value agent's, and is now the part's; others do without."""
    Old = dataclasses.make_dataclass("Old", ["params", "gain"])
    Average = dataclasses.make_dataclass("Average", ["gain"])
    New = dataclasses.make_dataclass("New", ["params", "parts"])
    for kind in (Old, Average, New):
        jax.tree_util.register_dataclass(kind)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"agent": Old(np.ones(2, np.float32), np.float32(0.5))})
    empty = np.zeros(2, np.float32)
    with_part = checkpoints.restore({"agent": New(empty, (Average(np.float32(0)),))})
    without = checkpoints.restore({"agent": New(empty, ())})
    assert with_part and with_part[1]["agent"].parts[0].gain == 0.5
    assert without and without[1]["agent"].params.tolist() == [1.0, 1.0]


def a_function(scale):
    return lambda x: scale * x


def test_functions_of_one_name_are_told_apart_by_what_they_do():
    partial = functools.partial
    loop = lambda x: loop(x) if x else 0  # noqa: E731
    pairs = {
        "closures": (a_function(1.0), a_function(2.0)),
        "partial": (partial(a_function(1.0), 1), partial(a_function(2.0), 1)),
        "jitted": (jax.jit(a_function(1.0)), jax.jit(a_function(2.0))),
        "code": (lambda x: x + 1, lambda x: x - 1),
        "constants": (lambda x: x + 1, lambda x: x + 2),
        "names": (lambda x: np.sin(x), lambda x: np.cos(x)),
        "defaults": (lambda x=1: x, lambda x=2: x),
    }
    for name, (one, other) in pairs.items():
        identity.check_identity("here", identity.identity(f=one), identity.identity(f=one))
        with pytest.raises(ValueError, match="another run"):
            identity.check_identity("here", identity.identity(f=one), identity.identity(f=other))
        # Checkpoints of earlier versions, and of another Python, know the name alone.
        line = identity.identity(f=one)["f"]
        for stored in (line.rsplit(" (", 1)[0], line.replace("(cpython-", "(cpython-9")):
            identity.check_identity(name, {"f": stored}, identity.identity(f=other))
            with pytest.raises(ValueError, match="another run"):
                identity.check_identity(name, {"f": "x" + stored}, identity.identity(f=other))
    assert identity.identity(f=loop) == identity.identity(f=loop)
    assert identity.identity(f=jnp.expm1, g=jaxrl.evaluate) == {"f": "expm1", "g": "evaluate"}


def test_a_whole_number_is_the_float_of_its_value():
    for one, other in ((1, 1.0), (1.0, 1), (np.int32(3), 3.0)):
        identity.check_identity("here", identity.identity(a=one), identity.identity(a=other))
    for one, other in ((1, 1.5), (True, 1.0), (2**53, 2**53 + 1), ("1", 1.0)):
        with pytest.raises(ValueError, match="another run"):
            identity.check_identity("here", identity.identity(a=one), identity.identity(a=other))


def test_functions_and_large_arrays_are_told_apart_across_processes() -> None:
    """Without the address of a function, and by every number of a table."""
    table = np.arange(100.0)
    lines = identity.identity(f=np.sin, g=lambda x: x, table=table)
    assert lines == identity.identity(f=np.sin, g=lambda x: x, table=table)
    assert not any("0x" in line for line in lines.values())
    assert lines["table"] != identity.identity(table=np.append(table[:-1], 99.5))["table"]


def test_a_run_goes_on_past_a_damaged_checkpoint(two_saved: Checkpoints) -> None:
    later = Path(two_saved.folder) / "9"
    os.rename(Path(two_saved.folder) / "2", later)  # holds step 2: damaged as step 9
    two_saved.save(3, tree_of(3))
    assert two_saved.steps() == [1, 3]  # the damaged one never pushes a good one out
    kept = Path(two_saved.folder) / "damaged" / "9"
    assert (kept / "DIGESTS.json").is_file()  # and is never deleted


def test_history_is_not_rewritten(two_saved: Checkpoints) -> None:
    with pytest.raises(ValueError, match="later checkpoint 2"):
        two_saved.save(1, tree_of(1))
    assert two_saved.steps() == [1, 2]


TEMPLATES = {
    "dtype": ({"a": np.zeros(3, np.float64), "b": 1}, "float32.3. .*!= float64.3."),
    "shape": ({"a": np.zeros(4, np.float32), "b": 1}, "float32.3. .*!= float32.4."),
    "missing": ({"a": np.zeros(3, np.float32)}, "'b'.*!= absent"),
    "added": ({"a": np.zeros(3, np.float32), "b": 1, "c": 2}, "'c'.: absent"),
    "key": ({"a": jax.random.split(jax.random.key(0), 3), "b": 1}, "!= key<fry>"),
}


@pytest.mark.parametrize(("template", "message"), TEMPLATES.values(), ids=TEMPLATES)
def test_another_template_is_refused(tmp_path: Path, template: dict, message: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": np.ones(3, np.float32), "b": 1})
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(template)


@pytest.mark.parametrize("leaf", ["text", object(), np.array(["a"]), np.array([None])])
def test_what_would_need_pickle_is_refused(tmp_path: Path, leaf: object) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match=r"'inner'.* cannot be stored"):
        checkpoints.save(1, {"inner": leaf})
    with pytest.raises(TypeError, match="not JSON"):
        checkpoints.save(1, {}, {"array": np.zeros(3)})
    assert checkpoints.steps() == []


def test_loading_unpickles_nothing(two_saved: Checkpoints) -> None:
    events, listening = [], [True]  # an audit hook cannot be removed, so it is told to be quiet

    def listen(event: str, _: tuple) -> None:
        if listening[0] and event in ("pickle.find_class", "exec", "compile"):
            events.append(event)

    two_saved.restore(tree_of(0))  # imports, which do execute, are over
    sys.addaudithook(listen)
    restored = two_saved.restore(tree_of(0))
    found = list(events)
    pickle.loads(pickle.dumps(Path("/")))  # the hook does hear a pickle
    listening[0] = False
    assert restored[0] == 2 and found == []
    assert "pickle.find_class" in events


def test_a_full_disk_is_one_clear_error(two_saved: Checkpoints, monkeypatch) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_value))
    # A limit on file size is refused by the system in the middle of the write, as a full disk is.
    noise = {"noise": np.random.default_rng(0).bytes(200_000)}
    noise = {"noise": np.frombuffer(noise["noise"], np.uint8)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint 3 could not be written.*Free some space"):
            two_saved.save(3, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    time.sleep(0.2)  # threads of the write that are late
    assert told == []
    assert sorted(os.listdir(two_saved.folder)) == ["1", "2"]
    assert two_saved.restore(tree_of(0))[0] == 2
    two_saved.save(3, noise)
    assert two_saved.steps() == [2, 3]


def test_a_disk_that_is_too_small_is_foreseen(two_saved: Checkpoints, monkeypatch) -> None:
    """Two are there, one more is written before the oldest goes; the first takes three."""
    usage = shutil.disk_usage(two_saved.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1_000_000))
    empty = Checkpoints(Path(two_saved.folder) / "not" / "yet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two_saved.foresee(1_000_000)
        empty.foresee(333_333)
    for checkpoints, size, told in ((two_saved, 1_000_001, "1.0 MB"), (empty, 400_000, "1.2 MB")):
        with pytest.warns(CheckpointWarning, match=f"up to {told} more and 1.0 MB are free"):
            checkpoints.foresee(size)


def test_a_file_in_the_way_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        Checkpoints(tmp_path / "file").save(1, {"a": 1})


# One process imports once; for each delay it forks a child that saves without end, and kills it.
FORKS = """
import os, select, signal, sys, time
import numpy as np
from jaxrl.training import Checkpoints

def save_without_end(folder, told):
    checkpoints = Checkpoints(folder)
    found = checkpoints.restore({"weights": np.zeros(100_000), "step": 0})
    step = found[0] if found else 0
    while True:
        step += 1
        tree = {"weights": np.full(100_000, float(step)), "step": step}
        checkpoints.save(step, tree, {"at": step})
        os.write(told, f"{step}\\n".encode())

for line in sys.stdin:
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        save_without_end(sys.argv[1], told)
    os.close(told)
    first = os.read(heard, 100)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    rest = b"".join(iter(lambda: os.read(heard, 65536), b""))
    os.close(heard)
    print((first + rest).split()[-1].decode(), os.WTERMSIG(status), flush=True)
"""


def check_kills(folder: Path, delays: list[float]) -> None:
    """After a first save and a delay, kill -9: what stays is whole, and no older than was told."""
    checkpoints, last = Checkpoints(folder), 0
    template = {"weights": np.zeros(100_000), "step": 0}
    command = [sys.executable, "-c", FORKS, str(folder)]
    pipe, environment = subprocess.PIPE, {**os.environ, "JAX_PLATFORMS": "cpu"}
    with (
        warnings.catch_warnings(),
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, text=True
        ) as forks,
    ):
        warnings.simplefilter("error")  # nothing torn is ever visible under its final name
        for delay in delays:
            forks.stdin.write(f"{delay}\n")
            forks.stdin.flush()
            printed, signalled = map(int, forks.stdout.readline().split())
            assert signalled == signal.SIGKILL and printed > last  # on from where the kill left it
            step, tree, extra = checkpoints.restore(template)
            assert step in (printed, printed + 1)
            assert tree["step"] == extra["at"] == step
            assert np.all(tree["weights"] == step)
            assert all(name.isdecimal() for name in os.listdir(folder))  # no rubbish left
            last = step
        forks.stdin.close()


@pytest.mark.slow
def test_kill_9_at_many_moments(tmp_path: Path) -> None:
    check_kills(tmp_path, list(np.random.default_rng(0).uniform(0.0, 0.5, 5)))


def test_what_agents_have_got_since_is_compared_only_where_it_is_set():
    """Of learners from fresh rollouts, whose operators came later than their checkpoints."""
    gained = ("agent.operator", "agent.successors")
    for agent in (jaxrl.ppo(), jaxrl.pqn()):
        here = identity.identity(agent=agent)
        old = {name: here[name] for name in here if not name.startswith(gained)}
        if "agent.operator.improvement" in here:
            old["agent.improvement"] = "Greedy"
        identity.check_identity("it", old, here)
        other = BellmanOperator(Categorical(), improvement=Softmax(1.0))
        changed = identity.identity(agent=agent.replace(operator=other))
        with pytest.raises(ValueError, match=r"agent\.operator"):
            identity.check_identity("it", old, changed)
