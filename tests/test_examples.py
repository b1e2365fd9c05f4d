"""The examples in the docstrings run as written."""

import doctest
import importlib
import importlib.util
import pathlib
import pkgutil

import pytest

PACKAGES = [
    "core",
    "functionals",
    "returns",
    "losses",
    "operators",
    "envs",
    "networks",
    "replay",
    "planning",
    "rules",
    "agents",
    "training",
    "meta",
    "report",
]


# Examples that train, plan or compile for long (a quarter of a CPU-second and more): `-m slow` runs
# them. A kind of part keeps one in every run.
SLOW = {
    "agents": (
        "action_critics ensemble episodes exploration learned_optimiser minibatches nested "
        "successors value_network"
    ),
    "core": "distances holding lifetime mdp schedules",
    "envs": (
        "bandits chains checker collecting control.acrobot control.cartpole control.mountain_car "
        "control.pendulum gridworlds gymnax mazes operations semi_markov tabular two_colours "
        "walled wrappers.actions wrappers.durations wrappers.normalise wrappers.randomisation "
        "wrappers.stock"
    ),
    "functionals": (
        "__init__ ambiguity burg chi_square deviation distortion divergence duals ellipsoid kl "
        "per_pair quantile risk scenarios shared_budget shared_divergence transport utility"
    ),
    "losses": "likelihood quantile",
    "meta": "distil fit level_buffer levels mirrored neumann probe rule_file shaping tasks",
    "networks": "initialisers models",
    "operators": (
        "bellman gap heads.expectile heads.gaussian heads.histogram heads.implicit_quantile "
        "heads.particles heads.quantile improvement per_state regularised reward_channels tsallis "
        "value_mapping"
    ),
    "planning": (
        "average_reward constrained distributional exponential_risk gap_increasing iwocs long_run "
        "mirror_descent nested_risk occupancy optimistic policy_evaluation policy_iteration "
        "return_laws static_risk stock stock_laws value_iteration worst_kernel"
    ),
    "replay": "ring",
    "report": "plots rule_pictures statistics",
    "rules": (
        "drift_policy learned_policy_gradient learned_reward mirror_descent random_weights "
        "reactive static_risk"
    ),
    "training": "checkpoint evaluation iwocs loop run_folder smoothing sweeps",
}


def has_examples(name):
    spec = importlib.util.find_spec(name)
    return ">>>" in pathlib.Path(spec.origin).read_text()


def modules():
    """Of each package the modules with examples: those of every run, then those of `-m slow`."""
    cases = []
    for package in PACKAGES:
        root = importlib.import_module(f"jaxrl.{package}")
        names = [m.name for m in pkgutil.walk_packages(root.__path__, root.__name__ + ".")]
        names = [name for name in (root.__name__, *names) if has_examples(name)]
        slow = {f"{root.__name__}.{name}" for name in SLOW.get(package, "").split()}
        slow = {name.removesuffix(".__init__") for name in slow}
        assert slow <= set(names), f"no such examples: {sorted(slow - set(names))}"
        for kind, marks in {package: [], f"{package}-slow": [pytest.mark.slow]}.items():
            own = [name for name in names if (name in slow) == bool(marks)]
            if own:
                marks = [*marks, pytest.mark.held_for(*own)]
                cases.append(pytest.param(own, id=kind, marks=marks))
    return cases


@pytest.mark.parametrize("names", modules())
def test_examples_run(names):
    """What each failing example gave is printed."""
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    failed = [name for name, result in results.items() if result.failed or not result.attempted]
    assert not failed, failed
