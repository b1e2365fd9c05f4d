"""Seconds to solve known models to a certified 1e-6: jaxrl against quantecon, mdpsolver, jaxdp.

    python benchmarks/planning.py                  # all cases, written to results/
    python benchmarks/planning.py --cases c --repeats 3
    python benchmarks/planning.py --quick          # a tenth of the size; prints only

| case | model |
|---|---|
| a | one sparse model: 100,000 states, 8 actions, 16 successors |
| b | one dense model: 2,000 states, 8 actions |
| c | 4,096 dense models of 64 states and 4 actions at once |

All at discount 0.99, rewards standard normal, laws uniform on the simplex. Each contender runs in a
process of its own, on the same cores; they solve in turn (A B C A B C ...), and the others sleep.
Building a model in a library's own form, and compilation, are not counted. Every library is given
one reward for each pair. Each is tried with every method and parameter listed below, once; the
quickest whose answer is truly within 1e-6 of a reference (made here by NumPy and SciPy to 1e-10) is
measured, and every answer is checked again. The other libraries live in an environment that the
benchmark makes in `--work-dir`.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from provenance import made_by

HERE = Path(__file__).resolve().parent
DISCOUNT, TOLERANCE = 0.99, 1e-6
SIZES = {"a": (1, 100_000, 8, 16), "b": (1, 2_000, 8, 2_000), "c": (4_096, 64, 4, 64)}
QUICK = {"a": (1, 10_000, 8, 16), "b": (1, 400, 8, 400), "c": (256, 64, 4, 64)}
OTHERS = ("quantecon", "mdpsolver", "jaxdp")
ROBUST = ("kl", "cvar", "tv")  # of jaxrl; cases a and c
PINS = {"quantecon": "0.11.4", "mdpsolver": "0.10.2", "jaxdp": "0.4.0"}
SHARED = ("jax", "jaxlib", "numpy", "scipy")
TIME_LIMIT = 1_200  # seconds to get ready, or to solve

Method = tuple[str, Callable[[], np.ndarray]]  # a name, and what finds the values


# ---- the models -------------------------------------------------------------------------------


def make_case(case: str, sizes: dict, folder: Path) -> None:
    """Write `prob`, `next_state` (sparse only), `reward` and the reference values."""
    num_models, num_states, num_actions, num_outcomes = sizes[case]
    rng = np.random.default_rng(ord(case))
    shape = (num_models, num_states, num_actions, num_outcomes)
    prob = rng.exponential(size=shape)
    prob /= prob.sum(axis=-1, keepdims=True)
    reward = rng.normal(size=shape[:3])
    np.save(folder / "prob.npy", prob)
    np.save(folder / "reward.npy", reward)
    next_state = None
    if case == "a":
        # Distinct successors of a pair: a random start and strides without a common factor with S.
        stride = 2 * rng.integers(1, num_states // 2, (*shape[:3], 1)) + 1
        stride = np.where(stride % 5 == 0, stride + 2, stride)
        start = rng.integers(0, num_states, (*shape[:3], 1))
        next_state = ((start + stride * np.arange(num_outcomes)) % num_states).astype(np.int32)
        np.save(folder / "next_state.npy", next_state)
    found = [reference(prob[m], next_state, reward[m]) for m in range(num_models)]
    np.save(folder / "values.npy", np.stack(found))


def reference(prob: np.ndarray, next_state: np.ndarray | None, reward: np.ndarray) -> np.ndarray:
    """Values `[S]` within 1e-10: value iteration until the span of the change says so."""
    import scipy.sparse

    num_states, num_actions, num_outcomes = prob.shape
    table: Any = prob.reshape(-1, num_outcomes)
    if next_state is not None:
        starts = np.arange(0, prob.size + 1, num_outcomes)
        size = (num_states * num_actions, num_states)
        table = scipy.sparse.csr_matrix((prob.ravel(), next_state.ravel(), starts), shape=size)
    values = np.zeros(num_states)
    for _ in range(100_000):
        swept = (reward + DISCOUNT * (table @ values).reshape(reward.shape)).max(axis=1)
        change = swept - values
        low, high = (DISCOUNT / (1 - DISCOUNT) * x for x in (change.min(), change.max()))
        values = swept + 0.5 * (low + high)
        if high - low < 1e-10:
            return values
    raise RuntimeError("the reference did not converge")


def load(folder: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    path = folder / "next_state.npy"
    next_state = np.load(path) if path.exists() else None
    parts = (np.load(folder / f"{name}.npy") for name in ("prob", "reward", "values"))
    prob, reward, values = parts
    return prob, next_state, reward, values


# ---- the contenders: every method to try ------------------------------------------------------


def jaxrl_methods(case: str, folder: Path, functional: str) -> Iterator[Method]:
    """The plain call with every default, on a batch as the documentation says."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    import jaxrl
    from jaxrl.functionals import CVaR, KLBall, Mean, TotalVariation
    from jaxrl.planning import value_iteration

    kinds = {"mean": Mean(), "kl": KLBall(0.1), "cvar": CVaR(0.2), "tv": TotalVariation(0.1)}
    operator = jaxrl.BellmanOperator(successor_functional=kinds[functional])
    prob, next_state, reward, _ = load(folder)
    if case == "a":
        mdp = jaxrl.outcome_mdp(prob[0], next_state[0], reward[0], DISCOUNT)
    else:
        mdp = jaxrl.tabular_mdp(prob[0], reward[0], DISCOUNT)

    if case != "c":

        def solve() -> np.ndarray:
            solution = value_iteration(mdp, operator, tolerance=TOLERANCE)
            return certified(solution)

        yield "value_iteration", solve
        return

    num_models = prob.shape[0]
    alike = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_models, *x.shape)), mdp)
    mdps = alike.replace(prob=jnp.asarray(prob), reward=jnp.asarray(reward)[..., None])
    for size in (1, 8, 32):
        solver = jax.jit(
            lambda batch, size=size: jax.lax.map(
                lambda m: value_iteration(m, operator, tolerance=TOLERANCE), batch, batch_size=size
            )
        )
        yield f"value_iteration, {size} at a time", lambda f=solver: certified(f(mdps))


def certified(solution: Any) -> np.ndarray:
    """The values, once they are there, of a solution that says that it is within the tolerance."""
    bounds = np.asarray(solution.error_bound)
    if not np.all(bounds <= TOLERANCE):
        raise RuntimeError(f"certified to {bounds.max():.1e} only")
    return np.asarray(solution.values).reshape(-1, solution.values.shape[-1])


def quantecon_methods(case: str, folder: Path) -> Iterator[Method]:
    """Modified policy iteration, whose answer is within epsilon / 2, and policy iteration."""
    import scipy.sparse
    from quantecon.markov import DiscreteDP

    prob, next_state, reward, _ = load(folder)
    num_models, num_states, num_actions, num_outcomes = prob.shape
    if case == "a":
        pairs = num_states * num_actions
        starts = np.arange(0, prob.size + 1, num_outcomes)
        table = scipy.sparse.csr_matrix(
            (prob.ravel(), next_state.ravel(), starts), shape=(pairs, num_states)
        )
        states, actions = np.divmod(np.arange(pairs), num_actions)
        models = [DiscreteDP(reward.ravel(), table, DISCOUNT, states, actions)]
    else:
        models = [DiscreteDP(reward[m], prob[m], DISCOUNT) for m in range(num_models)]

    def run(**settings: Any) -> np.ndarray:
        return np.stack([model.solve(**settings).v for model in models])

    for k in (3, 5, 8, 20):
        settings = {"method": "mpi", "epsilon": 2 * TOLERANCE, "max_iter": 100_000, "k": k}
        yield f"modified policy iteration, k = {k}", lambda s=settings: run(**s)
    if case != "a":  # the factors of a random sparse matrix of this size do not fit in memory
        yield "policy iteration", lambda: run(method="pi", max_iter=1_000)


def mdpsolver_methods(case: str, folder: Path) -> Iterator[Method]:
    """Modified policy iteration and value iteration, standard (parallel) and Gauss-Seidel."""
    import mdpsolver

    prob, next_state, reward, _ = load(folder)
    models = []
    for m in range(prob.shape[0]):
        model = mdpsolver.model()
        if case == "a":
            tables = {"tranMatProbs": prob[m].tolist(), "tranMatColumns": next_state[m].tolist()}
        else:
            tables = {"tranMatWithZeros": prob[m].tolist()}
        model.mdp(discount=DISCOUNT, rewards=reward[m].tolist(), **tables)
        del tables
        models.append(model)
    # It would start from its last answer otherwise.
    start = {"initPolicy": [0] * prob.shape[1], "initValueVector": [0.0] * prob.shape[1]}

    def run(**settings: Any) -> np.ndarray:
        for model in models:
            model.solve(**settings, **start)
        return np.array([model.getValueVector() for model in models])

    tolerances = (1e-4, 1e-5, 1e-6)  # the next only where the last was not enough
    ways = [("standard", False), ("gs", False), ("standard", True)]
    if case == "c":  # threads slow small models down, Gauss-Seidel took forty times as long
        ways = ways[:1]
    for (update, parallel), limit, tolerance in itertools.product(ways, (5, 20), tolerances):
        settings = {"algorithm": "mpi", "update": update, "parIterLim": limit}
        settings |= {"parallel": parallel, "tolerance": tolerance}
        name = f"mpi, {update}, {limit} evaluations, {'threads' if parallel else 'one thread'}"
        yield f"{name}; tolerance {tolerance:g}", lambda s=settings: run(**s)


def jaxdp_methods(case: str, folder: Path) -> Iterator[Method]:
    """Policy iteration until the policy stays; rank-one value iteration until certified."""
    if case == "a":
        raise RuntimeError("dense only: its table [A, S, S] would take 640 GB")
    import chex
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    chex.disable_asserts()  # they read the whole model in every step
    from jaxdp.mdp import MDP
    from jaxdp.planning import PolicyIteration, RankOneValueIteration

    prob, _, reward, _ = load(folder)
    num_models, num_states, num_actions, _ = prob.shape
    table = jnp.asarray(np.ascontiguousarray(prob.transpose(0, 2, 3, 1)))  # [M, A, S', S]
    rewards = jnp.asarray(reward.transpose(0, 2, 1))[..., None]  # [M, A, S, 1]
    mdps = MDP(
        transition=table,
        reward=jnp.broadcast_to(rewards, (num_models, num_actions, num_states, num_states)),
        initial=jnp.full((num_models, num_states), 1 / num_states),
        terminal=jnp.zeros((num_models, num_states)),
    )

    def by_policies(mdp: Any) -> Any:
        solver = PolicyIteration(gamma=DISCOUNT)
        first = jnp.zeros((num_actions, num_states)).at[0].set(1.0)

        def changes(pair: tuple) -> Any:
            return jnp.any(pair[0].policy != pair[1].policy)

        start = solver.init(mdp, first)
        pair = (start.replace(policy=start.policy - 1), start)
        improve = lambda pair: (pair[1], solver.update(mdp, pair[1]))  # noqa: E731
        return jax.lax.while_loop(changes, improve, pair)[1].v_val

    def by_values(mdp: Any) -> Any:
        solver = RankOneValueIteration(gamma=DISCOUNT)
        enough = TOLERANCE * (1 - DISCOUNT) / DISCOUNT

        def changes(pair: tuple) -> Any:
            return jnp.max(jnp.abs(pair[0].v_val - pair[1].v_val)) > enough

        start = solver.init(mdp)
        pair = (start.replace(v_val=start.v_val - 1), start)
        improve = lambda pair: (pair[1], solver.update(mdp, pair[1]))  # noqa: E731
        return jax.lax.while_loop(changes, improve, pair)[1].v_val

    for name, solver in (("policy iteration", by_policies), ("rank-one", by_values)):
        whole = jax.jit(jax.vmap(solver))
        yield f"{name}, vmap", lambda f=whole: np.asarray(f(mdps))
        if num_models > 1:
            few = jax.jit(lambda m, f=solver: jax.lax.map(f, m, batch_size=8))
            yield f"{name}, 8 at a time", lambda f=few: np.asarray(f(mdps))


def methods_of(contender: str, case: str, folder: Path) -> Iterator[Method]:
    name, _, functional = contender.partition(":")
    if name == "jaxrl":
        return jaxrl_methods(case, folder, functional or "mean")
    makers = {
        "quantecon": quantecon_methods,
        "mdpsolver": mdpsolver_methods,
        "jaxdp": jaxdp_methods,
    }
    return makers[name](case, folder)


def serve(contender: str, case: str, folder: Path) -> None:
    """Choose a method, report it, then solve once for each line of input."""
    exact = load(folder)[3] if ":" not in contender else None
    tried, best = [], None

    def timed(solve: Callable[[], np.ndarray]) -> dict[str, Any]:
        cpu, wall = time.process_time(), time.perf_counter()
        values = solve()
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        error = None if exact is None else float(np.abs(values - exact).max())
        return spent | {"error": error}

    settled = set()  # methods that need no smaller tolerance
    for name, solve in methods_of(contender, case, folder):
        if name.partition(";")[0] in settled:
            continue
        first = timed(solve)  # compiles
        report = timed(solve) if first["wall_s"] < 20 else first
        tried.append({"method": name, "first_s": first["wall_s"], **report})
        good = exact is None or max(report["error"], first["error"]) <= TOLERANCE
        settled |= {name.partition(";")[0]} if good else set()
        if good and (best is None or report["cpu_s"] < best[1]["cpu_s"]):
            best = (name, report, solve)
    if best is None:
        raise RuntimeError(f"no method came within {TOLERANCE}: {tried}")
    print(json.dumps({"method": best[0], "tried": tried}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(timed(best[2])), flush=True)


# ---- the measurement --------------------------------------------------------------------------


class Contender:
    """A process that solves when told to."""

    def __init__(self, name: str, case: str, folder: Path, python: Path):
        self.name, self.log = name, folder / f"{name.replace(':', '-')}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent)}
        job = ["--serve", name, "--cases", case, "--work-dir", str(folder)]
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [str(python), str(Path(__file__)), *job],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )

    def read(self) -> dict[str, Any]:
        """The next report. Raises `RuntimeError` with the last words of one that died."""
        watchdog = threading.Timer(TIME_LIMIT, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            words = self.log.read_text().strip().splitlines()
            raise RuntimeError(words[-1] if words else f"{self.name} stopped after {TIME_LIMIT} s")
        return json.loads(line)

    def run(self) -> dict[str, Any]:
        """Solve once."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self.read()


def measure(case: str, names: list[str], repeats: int, folder: Path, pythons: dict) -> list[dict]:
    """One row for each contender."""
    rows, ready = [], []
    try:
        for name in names:  # one after the other: they do not compete while they get ready
            row: dict[str, Any] = {"case": case, "contender": name}
            rows.append(row)
            contender = Contender(name, case, folder, pythons[name.partition(":")[0]])
            try:
                row |= contender.read() | {"runs": []}
                ready.append((contender, row))
            except RuntimeError as problem:
                contender.process.kill()
                row["problem"] = str(problem).removeprefix("RuntimeError: ")
            print(f"  {name}: {row.get('method') or row.get('problem')}", flush=True)
        for _ in range(repeats):
            for contender, row in ready:
                row["runs"].append(contender.run())
    finally:
        for contender, _ in ready:
            contender.process.kill()
    for _, row in ready:
        for key in ("cpu_s", "wall_s"):
            row[key] = statistics.median(run[key] for run in row["runs"])
            row[f"least_{key}"] = min(run[key] for run in row["runs"])
        errors = [run["error"] for run in row["runs"]]
        row["error"] = None if errors[0] is None else max(errors)
        if row["error"] is not None and row["error"] > TOLERANCE:
            row["problem"] = f"an answer was off by {row['error']:.1e}"
    return rows


def other_python(work_dir: Path) -> Path:
    """Python of an environment that holds the other libraries, made when its pins have changed."""
    folder = work_dir / "others"
    python, stamp = folder / "bin" / "python", folder / "pins.json"
    pins = PINS | {name: version(name) for name in SHARED}
    wanted = json.dumps({"python": sys.version, **pins}, indent=1)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of the other libraries in {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    packages = [f"{name}=={number}" for name, number in pins.items()]
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    subprocess.run([str(python), *install], check=True)
    stamp.write_text(wanted)  # last: an interrupted installation is made again
    return python


def markdown(report: dict[str, Any]) -> str:
    """The tables of a report."""
    sizes = report["about"]["sizes"]
    lines = [
        "# Planning: seconds to a certified 1e-6",
        "",
        "Written by `benchmarks/planning.py`, which says what is measured. Medians (least in "
        f"brackets) of the runs in `planning.json`; discount {DISCOUNT}, float64. "
        "CPU-seconds of all threads. Ratio: CPU-seconds over those of jaxrl on the nominal model.",
    ]
    for case in sorted({row["case"] for row in report["rows"]}):
        models, states, actions, outcomes = sizes[case]
        title = f"{models:,} x {states:,} states, {actions} actions, {outcomes:,} successors"
        rows = [row for row in report["rows"] if row["case"] == case]
        own = [row for row in rows if row["contender"] == "jaxrl" and "cpu_s" in row]
        lines += [
            "",
            f"## {case}: {title}",
            "",
            "| | method | CPU s | wall s | ratio | error |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for row in rows:
            if "cpu_s" not in row:
                lines.append(f"| {row['contender']} | {row['problem']} | | | | |")
                continue
            times = (f"{row[k]:.3f} ({row[f'least_{k}']:.3f})" for k in ("cpu_s", "wall_s"))
            ratio = f"{row['cpu_s'] / own[0]['cpu_s']:.2f}" if own else ""
            error = "" if row["error"] is None else f"{row['error']:.0e}"
            cells = [row["contender"], row["method"], *times, ratio, error]
            lines.append(f"| {' | '.join(cells)} |")
    about = report["about"]
    lines += ["", f"{about['date']}; {about['device']}, {about['cores']} cores; Python "]
    lines[-1] += f"{about['python']}; load average before: {about['load_before']:.1f}. "
    lines[-1] += ", ".join(f"{k} {v}" for k, v in about["versions"].items()) + "."
    lines[-1] += f" `{about['by']['command']}`, commit {about['by']['commit']}."
    return "\n".join(lines) + "\n"


def device_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--cases", nargs="+", choices=sorted(SIZES), default=sorted(SIZES))
    known = ("jaxrl", *OTHERS, *(f"jaxrl:{name}" for name in ROBUST))
    parser.add_argument("--contenders", nargs="+", choices=known, default=known)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small models; prints only")
    parser.add_argument("--work-dir", type=Path, default=cache / "jaxrl" / "planning")
    parser.add_argument("--others-python", type=Path, help="an interpreter that has the others")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.serve:
        serve(arguments.serve, arguments.cases[0], arguments.work_dir)
        return
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    others = arguments.others_python or other_python(arguments.work_dir)
    pythons = {"jaxrl": Path(sys.executable)} | dict.fromkeys(OTHERS, others)
    sizes = QUICK if arguments.quick else SIZES
    about = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": PINS | {name: version(name) for name in SHARED},
        "repeats": arguments.repeats,
        "sizes": sizes,
        "by": made_by(),
    }
    results = HERE / "results"
    report: dict[str, Any] = {"about": about, "rows": []}
    stored = results / "planning.json"
    kept = []
    if stored.exists() and not arguments.quick:  # what is not measured now stays
        kept = json.loads(stored.read_text())["rows"]
    for case in arguments.cases:
        print(f"case {case} ...", flush=True)
        folder = arguments.work_dir / f"case-{case}"
        folder.mkdir(exist_ok=True)
        make_case(case, sizes, folder)
        names = ["jaxrl", *OTHERS]
        names += [f"jaxrl:{name}" for name in ROBUST] if case != "b" else []
        chosen = [name for name in names if name in arguments.contenders]
        new = measure(case, chosen, arguments.repeats, folder, pythons)
        stamp = {name: about[name] for name in ("date", "load_before", "by")}
        new = {row["contender"]: row | stamp for row in new}
        old = {row["contender"]: row for row in kept if row["case"] == case}
        kept = [row for row in kept if row["case"] != case]
        kept += [(old | new)[name] for name in names if name in old | new]
        report["rows"] = kept
        if not arguments.quick:  # after each case: an interrupted run leaves what it measured
            stored.write_text(json.dumps(report, indent=1) + "\n")
            (results / "planning.md").write_text(markdown(report))
    print("\n" + markdown(report))


if __name__ == "__main__":
    main()
