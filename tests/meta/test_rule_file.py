"""Rule files: every bit comes back, nothing runs, and whatever is wrong is said in one sentence."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import a2c, ppo, pqn, rules
from jaxrl.agents import GradientDescent, learned_optimiser
from jaxrl.core import Cosine, Discrete, Exponential, Linear, struct
from jaxrl.functionals import CVaR
from jaxrl.meta import Card, distil, load, save, tuned

KEY = jax.random.key(0)
CARD = Card("for a test", metrics={"final_return": [0.5, 1.0]}, date="2020-01-01T00:00:00+00:00")


@struct.dataclass
class Own:
    """A struct that jaxrl does not know."""

    strength: float = 0.5


ONE = np.ones(1, np.float32)


def sparse(weights, scales, terms):
    """A drift as `distil` gives it."""
    nothing = distil(rules.ZeroDrift()).drift
    return nothing.replace(weights=weights, scales=scales, terms=terms)


SAVED = {
    "a2c": lambda: rules.AdvantageActorCritic(lambda_=0.1 + 0.2),
    "ppo agent": lambda: ppo(),
    "dpo": lambda: rules.DriftPolicy(rules.DiscoveredDrift()),
    "sparse": lambda: rules.DriftPolicy(sparse(ONE, ONE, ("[A<0] (r-1)^2",))),
    "lpo": lambda: rules.drift(KEY, num_hidden=3, timed=True),
    "tsallis": lambda: rules.MirrorDescentPolicy(
        rules.TsallisDivergence(1.5), Exponential(1.0, 0.1, 5e3)
    ),
    "cvar": lambda: rules.StaticRiskGradient(CVaR(Linear(1.0, 0.1, end=0.5))),
    "leave one out": lambda: rules.LeaveOneOut(group_size=4, by_deviation=True),
    "lpg": lambda: rules.lpg(KEY, num_hidden=2, num_predictions=3, num_embedded=2),
    "reward": lambda: rules.with_reward(
        rules.AdvantageActorCritic(), KEY, Discrete(3), Discrete(2), num_hidden=2
    ),
    "no clipping": lambda: GradientDescent(learning_rate=Cosine(1.0), max_grad_norm=None),
    "optimiser": lambda: learned_optimiser(KEY, num_memory=2, num_hidden=2),
    "timed": lambda: tuned(a2c(), ["learning_rate"], timed=True).agent,
    "q": lambda: pqn().replace(
        exploration=rules.reactive_exploration(KEY, num_hidden=2, num_recent=2)
    ),
    "tuned": lambda: (lambda free: {"tuned": free, "rule_params": free.init()})(
        tuned(ppo(), ["clip_epsilon", "discount"])
    ),
    "odd numbers": lambda: {
        "floats": (float("inf"), -float("inf"), -0.0, 5e-324, 1 / 3, 1e300),
        "nothing": [None, True, 2**60, "text of é", (), [], {}],
        "arrays": (np.zeros((0, 2), np.int8), np.float32(0.1), np.float64(0.1), np.arange(3)[::-1]),
        "jax": (jnp.asarray([0.1, jnp.nan, -0.0]), jnp.asarray(0.1, jnp.bfloat16), jnp.array(True)),
    },
}


@functools.cache
def saved(name):
    return SAVED[name]()


def same(one, other) -> None:
    """Equal structure with its static fields, equal types, equal bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(mine) is type(theirs)
        mine, theirs = np.asarray(mine), np.asarray(theirs)
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert mine.tobytes() == theirs.tobytes()


LONG = ("reward", "optimiser", "q")  # to make


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in SAVED]
)
def test_every_bit_comes_back(tmp_path, name):
    rule = saved(name)
    path = save(rule, tmp_path / "deep" / "a.rule", card=CARD)
    same(load(path), rule)
    assert [file.name for file in path.parent.iterdir()] == ["a.rule"]


def test_the_card_says_what_it_is_and_of_which_versions(tmp_path):
    card = Card.read(save(saved("a2c"), tmp_path / "a.rule", card=CARD))
    assert (card.summary, card.metrics) == (CARD.summary, CARD.metrics)
    assert card.versions["jax"] == jax.__version__ and card.date == CARD.date
    assert "final_return: [0.5, 1.0]" in str(card)
    later = Card.read(save(saved("a2c"), tmp_path / "b.rule", card=Card("undated")))
    assert later.date > CARD.date
    with pytest.raises(TypeError, match=r"card\.metrics\.x"):
        save(saved("a2c"), tmp_path / "c.rule", card=Card("", metrics={"x": object()}))


def test_equal_rules_give_equal_files_and_numpy_reads_them(tmp_path):
    first, second = (save(saved("lpo"), tmp_path / name, card=CARD) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    archive = np.load(first, allow_pickle=False)
    weights = saved("lpo").drift.weights.values()
    found = [archive[name] for name in sorted(archive.files) if name.startswith("arrays/")]
    for ours, theirs in zip(weights, found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_any_changed_byte_and_any_cut_is_noticed(tmp_path):
    path = save(saved("dpo"), tmp_path / "a.rule", card=CARD)
    content = path.read_bytes()
    for place in [*range(0, len(content), 7), *range(len(content) - 80, len(content))]:
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(ValueError):
            load(path)
        path.write_bytes(content[:place])
        with pytest.raises(ValueError):
            load(path)
    path.write_bytes(content[:-9])
    with pytest.raises(ValueError, match="cut short; fetch it again"):
        Card.read(path)


def rewrite(path, change, compression=zipfile.ZIP_STORED) -> None:
    """Write a file whose digest is right and whose content `change` made."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
        archive.comment = b"sha256:" + b"0" * 64
    body = stream.getvalue()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())


def replaced(old: str, new: str):
    def change(members):
        assert old in members["rule.json"].decode()
        members["rule.json"] = members["rule.json"].decode().replace(old, new, 1).encode()

    return change


def with_array(array, allow_pickle=False):
    def change(members):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, array, allow_pickle=allow_pickle)
        members["arrays/0000.npy"] = stream.getvalue()

    return change


WRONG = {
    "future": (replaced('"format": 1', '"format": 2'), "format 2.*upgrade jaxrl"),
    "near name": (replaced('"NetworkDrift"', '"NetworkDrif"'), "did you mean NetworkDrift"),
    "import path": (replaced('"NetworkDrift"', '"os.system"'), "not registered here"),
    "field": (replaced('"margin"', '"margen"'), "did you mean margin.*version on its card"),
    "no weights": (replaced('"weights"', '"margin"'), "lacks 'weights'"),
    "shape": (with_array(np.zeros((8, 4), np.float32)), r"float32\[8, 4\].*float32\[24, 3\]"),
    "dtype": (with_array(np.zeros((24, 3), np.int32)), r"int32\[24, 3\].*float32\[24, 3\]"),
    "pickle": (with_array(np.array([{}], object), allow_pickle=True), "not as `save` writes"),
    "no array": (lambda members: members.pop("arrays/0000.npy"), "not as `save` writes"),
    "no json": (lambda members: members.update({"rule.json": b"{"}), "not as `save` writes"),
    "nonsense": (lambda members: members.update({"rule.json": b"[]"}), "not as `save` writes"),
    "deep": (
        lambda members: members.update({"rule.json": b"[" * 100_000}),
        "not as `save` writes",
    ),
    "entry": (replaced('"struct"', '"code"'), "unknown entry"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_what_a_whole_file_cannot_mean_is_refused_in_one_sentence(tmp_path, change, message):
    path = save(saved("lpo"), tmp_path / "a.rule", card=CARD)
    rewrite(path, change)
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert str(path) in str(raised.value)


def test_other_files_are_refused(tmp_path):
    path = save(saved("dpo"), tmp_path / "a.rule", card=CARD)
    rewrite(path, lambda members: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="not as `save` writes"):
        load(path)
    path.write_text(json.dumps({"rule": 1}))
    with pytest.raises(ValueError, match=r"not a rule file.*meta\.save"):
        load(path)
    with pytest.raises(FileNotFoundError, match="no rule file"):
        load(tmp_path / "none.rule")


def test_nothing_is_overwritten_unless_told(tmp_path):
    path = save(saved("a2c"), tmp_path / "a.rule", card=CARD)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save(saved("dpo"), path, card=CARD)
    with pytest.raises(ValueError):
        save({"f": len}, path, card=CARD, overwrite=True)
    same(load(path), saved("a2c"))
    same(load(save(saved("dpo"), path, card=CARD, overwrite=True)), saved("dpo"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.rule"]


@pytest.mark.parametrize(
    "rule, message",
    [
        (rules.drift(lambda r, a, p: r), r"DriftPolicy\.drift is a function.*distil"),
        (
            rules.with_reward(rules.DriftPolicy(), lambda o, a, r: r),
            "WithReward.reward is a function",
        ),
        ({"key": KEY}, r"dict\.key is a PRNG key"),
        ({"names": np.array(["a"])}, "numbers only"),
        ({1: 2.0}, "keys must be text"),
        ((Own(),), r"tuple\[0\] is a Own.*parts=\[Own\]"),
        (1j, "complex.*cannot hold"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, rule, message):
    with pytest.raises(ValueError, match=message):
        save(rule, tmp_path / "a.rule", card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_traced_numbers_are_refused(tmp_path):
    @jax.jit
    def inside(number):
        save(rules.AdvantageActorCritic(lambda_=number), tmp_path / "a.rule", card=CARD)

    with pytest.raises(ValueError, match="lambda_ is being traced: save outside"):
        inside(0.5)


def test_structs_of_ones_own_are_named_at_both_ends(tmp_path):
    path = save(Own(0.1), tmp_path / "a.rule", card=CARD, parts=[Own])
    same(load(path, parts=[Own]), Own(0.1))
    with pytest.raises(ValueError, match="'Own', which is not registered"):
        load(path)
    impostor = type("ClipDrift", (Own,), {})
    with pytest.raises(ValueError, match="ClipDrift in parts has the name of another"):
        load(path, parts=[impostor])


def test_numbers_of_64_bits_are_never_rounded(tmp_path):
    with jax.enable_x64(True):
        rule = sparse(jnp.array([1 / 3]), jnp.ones(1), ("(r-1)^2",))
        path = save(rule, tmp_path / "a.rule", card=CARD)
        same(load(path), rule)
    with pytest.raises(ValueError, match=r"float64 numbers.*enable_x64"):
        load(path)
