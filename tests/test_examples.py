"""The examples in the docstrings run as written."""

import doctest
import importlib
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


# Examples that train, plan or compile for long (0.7 CPU-seconds and more): `-m slow` runs them.
SLOW = {
    "agents": "action_critics ensemble learned_optimiser",
    "core": "mdp",
    "envs": (
        "chains collecting control.cartpole gymnax mazes operations semi_markov two_colours "
        "wrappers.durations"
    ),
    "functionals": (
        "ambiguity burg chi_square distortion divergence ellipsoid norms per_pair risk "
        "shared_budget shared_divergence utility wasserstein"
    ),
    "meta": "distil fit mirrored neumann probe shaping tasks",
    "networks": "initialisers models",
    "operators": "bellman heads.expectile heads.gaussian heads.histogram tsallis",
    "planning": (
        "average_reward constrained distributional exponential_risk iwocs long_run mirror_descent "
        "optimistic policy_evaluation policy_iteration return_laws static_risk stock "
        "stock_laws"
    ),
    "replay": "ring",
    "report": "rule_pictures",
    "rules": "drift_network learned_policy_gradient learned_reward static_risk",
    "training": "evaluate iwocs least_value loop robust_evaluation smoothing sweep",
}


def modules():
    for package in PACKAGES:
        root = importlib.import_module(f"jaxrl.{package}")
        names = [m.name for m in pkgutil.walk_packages(root.__path__, root.__name__ + ".")]
        slow = {f"{root.__name__}.{name}" for name in SLOW.get(package, "").split()}
        assert slow <= set(names), f"no such modules: {sorted(slow - set(names))}"
        for name in (root.__name__, *names):
            yield pytest.param(name, marks=pytest.mark.slow) if name in slow else name


@pytest.mark.parametrize("name", list(modules()))
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
