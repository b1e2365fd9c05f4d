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
        "action_values actor_critic critics ensemble generative minibatches optimiser successors"
    ),
    "core": "distances holding lifetime mdp schedules",
    "envs": (
        "bandits chains checker collecting control.acrobot control.cartpole control.mountain_car "
        "control.pendulum gridworlds gymnax mazes operations tables tabular two_colours "
        "walled wrappers.actions wrappers.durations wrappers.normalise wrappers.randomisation "
        "wrappers.risk"
    ),
    "functionals": (
        "ambiguity distortion divergence duals per_pair quadratic risk shared_budget transport "
        "utility"
    ),
    "meta": "distilling fitting implicit levels mirrored probing rule_file tasks",
    "networks": "initialisers models",
    "operators": (
        "bellman composition grid_heads improvement quantile_heads statistic_heads tsallis"
    ),
    "planning": (
        "average_reward constraints distributional iteration linearised mirror_descent return_laws "
        "static_risk stock timed_risk"
    ),
    "replay": "ring",
    "report": "plots rule_pictures statistics",
    "rules": (
        "contract drift_policy learned_policy_gradient learned_reward mirror_descent reactive "
        "static_risk"
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
