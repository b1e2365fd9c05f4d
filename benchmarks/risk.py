"""What agents under risk attain, and how far sampled backups are off.

    python benchmarks/risk.py                  # both parts, written to results/
    python benchmarks/risk.py static --tasks windy_cliff --num-seeds 2
    python benchmarks/risk.py bias

`static`: the CVaR of the whole discounted return, from many played episodes, against the exact
optimum of `planning.static_cvar`. Four Q-networks of the same size and number of steps:

| agent | what it maximises |
|---|---|
| stock | the static CVaR; one network, its first stock chosen for each level |
| greedy | at every step the CVaR of the return from there on |
| nested | the CVaR over successors of the nested CVaR that follows, from 16 draws |
| mean | the mean |

`greedy` and `nested` are trained anew for every level, the others once. Tasks: a cliff with more
wind than by default, where steps are cheap and falls cost three; an option; and eight random models
of 4 states, 3 actions, 2 outcomes and 4 steps, with a reward for every outcome, taken as they come.

`bias`: the value of a tabular agent under CVaR or a KL ball, fed K draws of the successor, less the
exact nested value of `planning.value_iteration`; mean over states and seeds, on Garnet models.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from provenance import made_by, told

import jaxrl
from jaxrl import BellmanOperator, Generative, envs, planning
from jaxrl.agents import (
    ExpectedUtility,
    Optimiser,
    QNetworkAgent,
    StockConditioned,
    TargetUpdate,
    static_cvar_stocks,
)
from jaxrl.core import Linear, struct
from jaxrl.envs import TabularEnv
from jaxrl.envs.wrappers import Stock
from jaxrl.functionals import CVaR, KLBall
from jaxrl.networks import NetworkSettings
from jaxrl.operators import Quantile, Scalar
from jaxrl.replay import UniformReplay
from jaxrl.report import aggregate

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator

RESULTS = pathlib.Path(__file__).parent / "results"
LEVELS = (0.1, 0.25, 0.5, 1.0)
EPISODES = 20_000
NUM_STOCKS = 16_385
DRAWS = (2, 4, 8, 16, 32)


@struct.dataclass
class Discounted:
    """Pays reward times discount^time, so that the sum of rewards is the discounted return."""

    env: Any
    discount: float

    observation_space = property(lambda self: self.env.observation_space)
    action_space = property(lambda self: self.env.action_space)

    def reset(self, key: jax.Array) -> tuple:
        """A new episode, at weight 1."""
        state, observation = self.env.reset(key)
        return (state, jnp.ones(())), observation

    def step(self, key: jax.Array, state: tuple, action: jax.Array) -> tuple:
        """One step."""
        inner, weight = state
        inner, step = self.env.step(key, inner, action)
        return (inner, weight * self.discount), step.replace(reward=weight * step.reward)


# ---- static risk ------------------------------------------------------------------------------


@struct.dataclass
class Task:
    """Models of one shape, and what bounds their returns and episodes.

    Stocks are drawn from `low` to `high`: those that the levels start with, and those that are
    left after losses.
    """

    mdps: Any  # [M, ...]
    horizon: int = struct.field(pytree_node=False)
    low: float = struct.field(pytree_node=False)  # of the stock [return]
    high: float = struct.field(pytree_node=False)
    num_steps: int = struct.field(pytree_node=False)

    @property
    def discount(self) -> float:
        """Of all models [per step]."""
        return float(np.asarray(self.mdps.discount)[0])

    def plain(self, mdp: Any) -> Any:
        """A model, cut at the horizon."""
        return TabularEnv(mdp, time_limit=float(self.horizon))

    def in_stock(self, mdp: Any, low: Any, high: Any) -> Stock:
        """A model with a stock drawn between `low` and `high` in front of every episode."""
        limit = 2.0 * max(-self.low, self.high)
        return Stock(self.plain(mdp), low=low, high=high, discount=self.discount, limit=limit)

    def agent(self, operator: BellmanOperator, **changes: Any) -> QNetworkAgent:
        """The agent, but for its objective."""
        return jaxrl.qr_dqn().replace(
            operator=operator,
            network=NetworkSettings(hidden_sizes=(128, 128), activation="relu"),
            optimiser=Optimiser(learning_rate=Linear(2e-3, 0.0), max_grad_norm=10.0),
            replay=UniformReplay(capacity=50_000),
            discount=self.discount,
            exploration=Linear(1.0, 0.2, end=0.5),
            num_envs=16,
            num_updates=2,
            batch_size=128,
            **changes,
        )


def random_model(seed: int) -> Any:
    """4 states in each of 4 steps, 3 actions, 2 outcomes with rewards of their own."""
    num_states, num_steps, draw = 4, 4, np.random.default_rng(seed)
    shape = (num_states, 3, 2)
    prob, reward = draw.dirichlet(np.ones(2), shape[:2]), 2.0 * draw.normal(size=shape)
    successor = draw.integers(num_states, size=shape)
    later = [np.minimum(t + 1, num_steps - 1) * num_states for t in range(num_steps)]
    return jaxrl.outcome_mdp(
        np.tile(prob, (num_steps, 1, 1)),
        np.concatenate([successor + first for first in later]),
        np.tile(reward, (num_steps, 1, 1)),
        0.9,
        initial=np.eye(num_states * num_steps)[0],
        terminal=np.repeat(np.arange(num_steps) == num_steps - 1, num_states)[:, None, None]
        & np.ones((num_states * num_steps, *shape[1:]), bool),
    )


def tasks() -> dict[str, Callable[[], Task]]:
    terms = envs.OptionTerms(spot=1.0, strike=1.1)

    def of(mdps: list, *bounds: Any) -> Task:
        return Task(jaxrl.stack_mdps(mdps), *bounds)

    return {
        "windy_cliff": lambda: of(
            [envs.windy_cliff(wind=0.1, cliff_cost=3.0)], 100, -20.0, 25.0, 150_000
        ),
        "option": lambda: of([envs.american_option(terms, num_steps=12)], 13, -0.6, 0.3, 150_000),
        "random": lambda: of([random_model(seed) for seed in range(8)], 4, -12.0, 12.0, 150_000),
    }


def lanes(task: Task, num_seeds: int) -> tuple[jax.Array, Any]:
    """Keys `[M * seeds]`, and the model of each; seeds vary fastest."""
    num_models = task.mdps.prob.shape[0]
    keys = jax.random.split(jax.random.key(0), num_models * num_seeds)
    return keys, jax.tree.map(lambda leaf: jnp.repeat(leaf, num_seeds, axis=0), task.mdps)


def train(task: Task, agent: Any, make: Callable[[Any], Any], num_seeds: int) -> Any:
    """States `[M * seeds, ...]` of agents trained in `make(mdp)`."""

    def one(lane: tuple) -> Any:
        key, mdp = lane
        return jaxrl.train(key, agent, make(mdp), num_steps=task.num_steps).state.agent

    return jax.jit(lambda rows: jax.lax.map(one, rows))(lanes(task, num_seeds))


def returns(
    task: Task, agent: Any, make: Callable, states: Any, num_seeds: int, *settings: Any
) -> np.ndarray:
    """Discounted returns `[M, seeds, EPISODES]` of greedy play in `make(mdp, *settings)`."""

    def one(lane: tuple) -> jax.Array:
        key, mdp, state, values = lane
        env = Discounted(make(mdp, *values), task.discount)
        played = jaxrl.evaluate(
            jax.random.fold_in(key, 1),
            agent,
            env,
            state,
            num_episodes=EPISODES,
            max_steps=task.horizon,
        )
        return played.returns

    keys, mdps = lanes(task, num_seeds)
    found = jax.jit(lambda rows: jax.lax.map(one, rows))((keys, mdps, states, settings))
    return np.asarray(found).reshape(-1, num_seeds, EPISODES)


def tail_mean(returns: np.ndarray, level: float) -> np.ndarray:
    """CVaR of each row, by sorting."""
    count = level * returns.shape[-1]
    weights = np.clip(count - np.arange(returns.shape[-1]), 0.0, 1.0)
    return np.sort(returns, axis=-1) @ weights / count


def static_rows(name: str, task: Task, num_seeds: int) -> dict[str, Any]:
    """Attained CVaR `[agent][level][model][seed]`, and the exact optimum `[level][model]`."""
    found: dict[str, list] = {}
    started = time.process_time()

    spread = StockConditioned(low=task.low, high=task.high)
    law = BellmanOperator(Quantile(32), return_functional=ExpectedUtility())
    agent = task.agent(law, parts=(spread,))
    states = train(task, agent, lambda m: task.in_stock(m, task.low, task.high), num_seeds)

    def choose(lane: tuple) -> jax.Array:
        mdp, state = lane
        _, start = task.in_stock(mdp, 0.0, 0.0).reset(jax.random.key(0))
        return static_cvar_stocks(agent, state, start[None], jnp.array(LEVELS))[0]

    chosen = jax.lax.map(choose, (lanes(task, num_seeds)[1], states))  # [M * seeds, levels]
    found["stock"] = []
    for index, level in enumerate(LEVELS):
        stock = chosen[:, index]
        played = returns(task, agent, task.in_stock, states, num_seeds, stock, stock)
        found["stock"].append(tail_mean(played, level))
    print(f"  stock: {time.process_time() - started:.0f} CPU s", flush=True)

    head = Quantile(32)
    families: dict[str, Callable[[float], Any]] = {
        "greedy": lambda level: task.agent(BellmanOperator(head, return_functional=CVaR(level))),
        "nested": lambda level: task.agent(
            BellmanOperator(Scalar(float("inf")), successor_functional=CVaR(level)),
            successors=Generative(16),
        ),
    }
    for family, make in families.items():
        found[family] = []
        for level in LEVELS:
            agent = make(level)
            states = train(task, agent, task.plain, num_seeds)
            played = returns(task, agent, task.plain, states, num_seeds)
            found[family].append(tail_mean(played, level))
        print(f"  {family}: {time.process_time() - started:.0f} CPU s", flush=True)
    agent = task.agent(BellmanOperator(head))
    states = train(task, agent, task.plain, num_seeds)
    played = returns(task, agent, task.plain, states, num_seeds)
    found["mean"] = [tail_mean(played, level) for level in LEVELS]

    exact, bounds = exact_optima(task)
    return {
        "task": name,
        "levels": LEVELS,
        "exact": exact,
        "exact_error_bound": bounds,
        "attained": {a: np.round(np.stack(v), 4).tolist() for a, v in found.items()},
        "steps": task.num_steps,
        "seeds": num_seeds,
        "cpu_seconds": time.process_time() - started,
    }


def exact_optima(task: Task) -> tuple[list[list[float]], list[list[float]]]:
    """The best static CVaR `[level][model]`, and how far off it may be."""
    exact, bounds = [], []
    with jax.enable_x64(True):
        mdps = jax.tree.map(
            lambda leaf: (
                jnp.asarray(leaf, float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            ),
            task.mdps,
        )
        for level in LEVELS:
            plans = []
            for model in range(mdps.prob.shape[0]):
                mdp = jax.tree.map(lambda leaf, model=model: leaf[model], mdps)
                plans.append(
                    planning.static_cvar(
                        mdp, level=level, horizon=task.horizon, num_stocks=NUM_STOCKS
                    )
                )
            exact.append([float(plan.value) for plan in plans])
            bounds.append([float(plan.error_bound) for plan in plans])
    return exact, bounds


# ---- the bias of K draws ----------------------------------------------------------------------


def bias_rows(num_seeds: int) -> dict[str, Any]:
    """Mean of (learned - exact nested value) over states, `[functional][K][seed]`."""
    discount = 0.8
    keys = jax.random.split(jax.random.key(0), num_seeds)
    mdps = jaxrl.stack_mdps([envs.garnet(key, 6, 2, 4, discount=discount) for key in keys])
    found: dict[str, list] = {}
    for label, functional in (("CVaR(0.25)", CVaR(0.25)), ("KLBall(0.2)", KLBall(0.2))):
        operator = BellmanOperator(Scalar(float("inf")), successor_functional=functional)
        solve = jax.vmap(lambda mdp, o=operator: planning.value_iteration(mdp, o, tolerance=1e-4))
        exact = np.asarray(solve(mdps).q_values)
        found[label] = []
        for draws in DRAWS:
            agent = QNetworkAgent(
                operator=operator,
                successors=Generative(draws),
                network=NetworkSettings(hidden_sizes=(), initialiser="lecun"),
                optimiser=Optimiser(learning_rate=Linear(0.05, 0.0), max_grad_norm=100.0),
                replay=UniformReplay(capacity=8192),
                target=TargetUpdate(period=1, step_size=0.05),
                discount=discount,
                exploration=1.0,
                num_envs=64,
                rollout_length=4,
                num_updates=8,
                batch_size=128,
                warmup=512,
            )
            # Restarts after five steps visit every state.
            learn = jax.jit(
                jax.vmap(
                    lambda key, mdp, agent=agent: q_values_of(
                        jaxrl.train(key, agent, TabularEnv(mdp, 5.0), num_steps=100_000)
                    )
                )
            )
            learned = np.asarray(learn(jax.random.split(jax.random.key(1), num_seeds), mdps))
            off = np.mean(learned - exact, axis=(1, 2)).tolist()
            found[label].append(off)
            print(f"  {label}, K = {draws}: {np.mean(off):.4f}", flush=True)
    return {"draws": DRAWS, "bias": found, "seeds": num_seeds}


def q_values_of(result: Any) -> jax.Array:
    """Learned action values `[6, 2]` of a tabular agent."""
    state = result.state.agent
    return state.model.apply(state.params, jnp.arange(6))


# ---- report -----------------------------------------------------------------------------------


def interval(values: Any) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % bootstrap interval."""
    mean = aggregate(values).mean
    return mean.value, mean.low, mean.high


def shortfalls(row: dict[str, Any]) -> dict[str, np.ndarray]:
    """How far each agent stays below the optimum, `[agent][level, model, seed]` [return]."""
    exact = np.array(row["exact"])[..., None]
    return {name: exact - np.array(values) for name, values in row["attained"].items()}


def table(report: dict[str, Any]) -> str:
    lines = [
        "# Risk: what is attained, and what is biased",
        "",
        "Written by `benchmarks/risk.py`, which says what is measured. Means over seeds with 95 % "
        "bootstrap intervals.",
    ]
    for name, row in report.items():
        if name == "bias":
            continue
        num_models = len(row["exact"][0])
        lines += [
            "",
            f"## Static CVaR, {name}: {row['steps']:,} steps, {row['seeds']} seeds, "
            f"{EPISODES:,} episodes each",
            "",
            "How far below the exact optimum"
            + (f", over {num_models} models and all seeds." if num_models > 1 else "."),
            "",
            "| level | exact optimum (bound on its error) | " + " | ".join(row["attained"]) + " |",
            "|---:|---:|" + "---|" * len(row["attained"]),
        ]
        for i, level in enumerate(row["levels"]):
            bound = max(row["exact_error_bound"][i])
            cells = [f"{level:g}", f"{np.mean(row['exact'][i]):.3f} ({bound:.3f})"]
            for values in shortfalls(row).values():
                cells.append("{:.3f} [{:.3f}, {:.3f}]".format(*interval(values[i].ravel())))
            lines.append(f"| {' | '.join(cells)} |")
    if "bias" in report:
        row = report["bias"]
        lines += [
            "",
            f"## Learned from K draws, less the exact nested value ({row['seeds']} Garnet models)",
            "",
            "| functional | " + " | ".join(f"K = {k}" for k in row["draws"]) + " |",
            "|---|" + "---|" * len(row["draws"]),
        ]
        for label, values in row["bias"].items():
            cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*interval(v)) for v in values]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", f"{told(made_by())}."]
    return "\n".join(lines) + "\n"


def draw_bias(row: dict[str, Any], file: pathlib.Path) -> None:
    figure, axis = plt.subplots(figsize=(5.5, 4))
    for number, (label, values) in enumerate(row["bias"].items()):
        found = np.array([interval(v) for v in values])
        axis.plot(row["draws"], found[:, 0], "o-", color=f"C{number}", label=label)
        axis.fill_between(row["draws"], found[:, 1], found[:, 2], color=f"C{number}", alpha=0.2)
    scale = np.array([interval(v)[0] for v in next(iter(row["bias"].values()))])[0]
    draws = np.array(row["draws"], float)
    axis.plot(draws, scale * draws[0] / draws, ":", color="0.5", label="1 / K")
    axis.set(xscale="log", yscale="log", xlabel="draws of the successor, K")
    axis.set_xticks(row["draws"], [str(k) for k in row["draws"]])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_ylabel("learned less exact value [return]")
    axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_static(row: dict[str, Any], file: pathlib.Path) -> None:
    figure, axis = plt.subplots(figsize=(5.5, 4))
    axis.axhline(0.0, color="k", lw=1, label="exact optimum")
    for number, (label, values) in enumerate(shortfalls(row).items()):
        found = np.array([interval(v.ravel()) for v in values])
        error = [found[:, 0] - found[:, 1], found[:, 2] - found[:, 0]]
        place = np.array(row["levels"]) * (1.0 + 0.03 * (number - 1.5))  # side by side
        axis.errorbar(
            place, found[:, 0], error, fmt="o", capsize=3, color=f"C{number}", label=label
        )
    axis.set(xscale="log", xlabel="level", title=row["task"])
    axis.set_ylabel("shortfall of the CVaR attained [return]")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(-0.1, 1.5 * max(interval(v.ravel())[2] for v in shortfalls(row)["mean"]))
    axis.set_xticks(row["levels"], [f"{x:g}" for x in row["levels"]])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="static, bias; both when none is named")
    parser.add_argument("--tasks", nargs="+", choices=tasks(), default=list(tasks()))
    parser.add_argument("--num-seeds", type=int, default=4)
    arguments = parser.parse_args()
    parts = arguments.parts or ["static", "bias"]
    if unknown := set(parts) - {"static", "bias"}:
        parser.error(f"unknown part {', '.join(unknown)}: give static or bias.")
    path = RESULTS / "risk.json"
    report = json.loads(path.read_text()) if path.exists() else {}

    def keep() -> None:  # after each part: a run that is cut loses one
        path.write_text(json.dumps(report) + "\n")
        (RESULTS / "risk.md").write_text(table(report))

    if "bias" in parts:
        report["bias"] = bias_rows(arguments.num_seeds)
        draw_bias(report["bias"], RESULTS / "risk_bias.png")
        keep()
    for name in arguments.tasks if "static" in parts else ():
        print(name, flush=True)
        report[name] = static_rows(name, tasks()[name](), arguments.num_seeds)
        draw_static(report[name], RESULTS / f"risk_{name}.png")
        keep()
    print(table(report))


if __name__ == "__main__":
    main()
