"""`jaxrl plan`: solve a tabular environment exactly, and draw values, policy and adversary."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxrl.planning as planning
from jaxrl.cli.arguments import Plan
from jaxrl.cli.contraction import why_no_contraction
from jaxrl.cli.errors import BadInput, refusing
from jaxrl.cli.evaluate import write_report
from jaxrl.cli.grids import grid_layout
from jaxrl.cli.imports import import_modules
from jaxrl.cli.job import assignments, given_parts
from jaxrl.cli.parts import canonical, operator_with
from jaxrl.cli.screen import add_row, make_console, make_table, say
from jaxrl.core import notation
from jaxrl.core.files import replacing
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.schedules import has_schedule
from jaxrl.core.types import Array
from jaxrl.envs import TabularEnv, facts_of, make, names
from jaxrl.envs.gymnax import GYMNAX_NAMES
from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe
from jaxrl.planning.backups import outcome_values
from jaxrl.training.run_folder import RunFolder, open_run


@dataclasses.dataclass(frozen=True)
class _Solved:
    """What any of the solvers found."""

    values: Array  # [S] [return]
    q_values: Array  # [S, A] [return]
    policy: Array  # [S, A], probabilities
    model: TabularMDP  # whose outcomes are worth what follows
    later: Array  # [S], values of the successors [return]
    facts: dict[str, Any]  # for the table and summary.json
    note: str = ""  # what the numbers do not promise


def plan(arguments: Plan, words: Sequence[str]) -> int:
    """Run `jaxrl plan`.

    Args:
        arguments: what was asked.
        words: the command line that said so, noted in the folder.

    Returns:
        0; 1 when the iteration did not converge.

    Raises:
        BadInput: anything that cannot be.
    """
    console = make_console()
    _check_numbers(arguments)
    import_modules(arguments.imports)
    operator = operator_with(BellmanOperator(), given_parts(arguments))
    if has_schedule(operator):
        raise BadInput("A schedule needs a training run: give a plan the number itself.")
    config, parameters = _config(arguments)
    with jax.enable_x64(True):  # the model too is made of 64-bit numbers
        mdp = _model(arguments, parameters)
        with refusing(ValueError):
            operator.require_successors(mdp.num_outcomes, exact=True)
        path = Path(arguments.run_dir) if arguments.run_dir else _default_folder(config)
        with refusing(ValueError, OSError):
            run = open_run(path, config, arguments.overwrite, ["jaxrl", *words])
        with run:
            run.set_status("running")
            try:
                return _solve_in(run, arguments, operator, mdp, parameters, console)
            except BaseException as error:
                run.set_status("failed", {"reason": f"{type(error).__name__}: {error}"[:2000]})
                raise


def _check_numbers(arguments: Plan) -> None:
    if not arguments.tolerance > 0:
        raise BadInput(f"--tolerance {arguments.tolerance} is out of range: give one above 0.")
    if arguments.max_iterations < 1:
        raise BadInput(f"--max-iterations {arguments.max_iterations} is below 1.")
    if arguments.horizon is not None and not 1 <= arguments.horizon <= 10**6:
        raise BadInput(f"--horizon {arguments.horizon} is out of range: give 1 to 1,000,000.")
    if arguments.discount is not None and not 0 <= arguments.discount <= 1:
        raise BadInput(f"--discount {arguments.discount} is out of range: give 0 to 1.")
    if arguments.average_reward and (arguments.horizon or arguments.discount is not None):
        raise BadInput("--average-reward has neither --horizon nor --discount: leave them out.")


def _config(arguments: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan as plain data, and the environment's parameters."""
    given = assignments(arguments.env_settings, "--env-set")
    parameters = {name: notation.parse_literal(text) for name, text in given.items()}
    config = {
        "plan": arguments.env,
        "env_settings": {name: notation.to_plain(value) for name, value in parameters.items()},
        "parts": canonical(given_parts(arguments)),
        "discount": arguments.discount,
        "horizon": arguments.horizon,
        "average_reward": arguments.average_reward,
        "tolerance": arguments.tolerance,
        "max_iterations": arguments.max_iterations,
    }
    return config, parameters


def _default_folder(config: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{config['plan']}-plan-{digest[:8]}"


def _model(arguments: Plan, parameters: dict[str, Any]) -> TabularMDP:
    """The model of a tabular environment."""
    name, env = arguments.env, None
    if name not in GYMNAX_NAMES:
        with refusing(ValueError, TypeError, KeyError, OverflowError):
            env = make(name, **parameters)
    if not isinstance(env, TabularEnv):
        known = ", ".join(one for one in names() if facts_of(one).is_tabular)
        raise BadInput(f"{name} has no table to plan with. Tabular are: {known}.")
    if arguments.discount is None:
        return env.mdp
    return env.mdp.replace(discount=jnp.full_like(env.mdp.discount, arguments.discount))


def _solve_in(
    run: RunFolder,
    arguments: Plan,
    operator: BellmanOperator,
    mdp: TabularMDP,
    parameters: dict[str, Any],
    console: Console,
) -> int:
    """Solve, show, write; the exit code."""
    start = time.perf_counter()
    with refusing(ValueError):
        found = _solve(arguments, operator, mdp)
    kernel = planning.worst_case_kernel(found.model, operator, found.later, found.policy)
    seconds = time.perf_counter() - start
    title = f"{arguments.env}: {_operator_text(operator)}"
    _show(console, title, found, mdp, arguments)
    for text in (why_no_contraction(operator), found.note):
        if text:
            say(console, f"note: {text}")
    worth = jnp.broadcast_to(outcome_values(found.model, operator, found.later), mdp.prob.shape)
    _write(run, found, mdp, kernel)
    _draw(run, arguments, parameters, mdp, found, np.asarray(kernel), np.asarray(worth), title)
    facts = {name: _finite(value) for name, value in found.facts.items()}
    summary = {
        **{"title": title, "num_states": mdp.num_states, "num_actions": mdp.num_actions},
        **{"discount": None if arguments.average_reward else float(mdp.discount)},
        **{"contracts": operator.contracts},
        **{**facts, "note": found.note, "seconds": round(seconds, 3)},
    }
    write_report(run.path / "summary.json", summary)
    state = "done" if found.facts["converged"] else "failed"
    run.set_status(state, names=("solution.npz", "summary.json"))
    for name in ("solution.npz", "summary.json", "plots/plan.png"):
        say(console, f"written: {run.path / name}")
    return 0 if found.facts["converged"] else 1


def _solve(arguments: Plan, operator: BellmanOperator, mdp: TabularMDP) -> _Solved:
    if arguments.horizon is not None:
        return _over_a_horizon(arguments.horizon, operator, mdp)
    limits = {"tolerance": arguments.tolerance, "max_iterations": arguments.max_iterations}
    if arguments.average_reward:
        solution = planning.relative_value_iteration(mdp, operator, **limits)
        # What ends begins anew: the first states' values stand for what follows the end.
        again = mdp.terminal * (mdp.initial @ solution.values)
        model = mdp.replace(reward=mdp.reward + again, discount=jnp.ones_like(mdp.discount))
    else:
        solution, model = planning.value_iteration(mdp, operator, **limits), mdp
    gain = {} if solution.gain is None else {"gain": float(solution.gain)}
    start_value = float(mdp.initial @ solution.values)
    facts = {
        **({"gain": gain["gain"]} if gain else {"start_value": start_value}),
        "num_iterations": int(solution.num_iterations),
        "residual": float(solution.residual),
        "error_bound": float(solution.error_bound),
        "converged": bool(solution.converged),
    }
    return _Solved(
        *(solution.values, solution.q_values, solution.policy, model, solution.values),
        facts=facts,
        note=_promise(arguments, mdp, facts),
    )


def _promise(arguments: Plan, mdp: TabularMDP, facts: dict[str, Any]) -> str:
    """What a reader must know of a solution that is not certified within the tolerance."""
    if not facts["converged"]:
        reached = f"residual {facts['residual']:.3g}, error bound {facts['error_bound']:.3g}"
        if not math.isfinite(facts["residual"]):
            return "not converged: the values are not finite; try --discount 0.99 or --horizon 200."
        more = "raise --max-iterations or --tolerance"
        if float(mdp.discount) >= 1 and not arguments.average_reward:
            more += ", or give --discount 0.99 or --horizon 200"
        return f"not converged ({reached}): {more}."
    if math.isfinite(facts["error_bound"]):
        return ""
    if float(mdp.discount) >= 1 and not arguments.average_reward:
        return (
            "at discount 1 some policy never ends, so that the residual is within the tolerance "
            "but no bound on the error is known; --discount 0.99 or --horizon 200 have one."
        )
    return "the residual is within the tolerance, but no bound on the error is known."


def _over_a_horizon(horizon: int, operator: BellmanOperator, mdp: TabularMDP) -> _Solved:
    solution = planning.finite_horizon(mdp, operator, horizon=horizon)
    start_value = float(mdp.initial @ solution.values[0])
    return _Solved(
        values=solution.values[0],
        q_values=solution.q_values[0],
        policy=solution.policy[0],
        model=mdp,
        later=solution.values[1],
        facts={
            **{"start_value": start_value, "num_iterations": horizon, "residual": 0.0},
            **{"error_bound": 0.0, "converged": math.isfinite(start_value)},
        },
        note=f"backward induction over {horizon} steps, exact but for rounding; what is drawn and "
        "written is for the first step.",
    )


def _show(console: Console, title: str, found: _Solved, mdp: TabularMDP, arguments: Plan) -> None:
    table = make_table(["", "found"], numeric=["found"])
    table.title = title
    add_row(table, "states x actions", f"{mdp.num_states:,} x {mdp.num_actions:,}")
    if not arguments.average_reward:
        add_row(table, "discount", f"{float(mdp.discount):g}")
    named = {
        "gain": "gain [return per step]",
        "start_value": "value at the start [return]",
        "num_iterations": "iterations",
        "residual": "residual",
        "error_bound": "error bound",
        "converged": "converged",
    }
    for name, value in found.facts.items():
        text = str(value).lower() if isinstance(value, bool) else f"{value:,}"
        add_row(table, named[name], f"{value:.8g}" if isinstance(value, float) else text)
    console.print(table)


def _operator_text(operator: BellmanOperator) -> str:
    parts = (operator.successor_functional, operator.improvement, operator.composition)
    shown = [describe(part).removesuffix("()") for part in parts]
    return ", ".join(shown[: 3 if shown[2] != "DiscountedSum" else 2])


def _write(run: RunFolder, found: _Solved, mdp: TabularMDP, kernel: Array) -> None:
    """`solution.npz`: the solution, nature's kernel, and the model that both speak of."""
    with replacing(run.path / "solution.npz") as stream:
        np.savez_compressed(
            stream,
            values=found.values,
            q_values=found.q_values,
            policy=found.policy,
            kernel=kernel,
            prob=mdp.prob,
            next_state=mdp.next_state,
            reward=mdp.reward,
            terminal=mdp.terminal,
            initial=mdp.initial,
            legal=mdp.legal,
            discount=mdp.discount,
        )


def _draw(
    run: RunFolder,
    arguments: Plan,
    parameters: dict[str, Any],
    mdp: TabularMDP,
    found: _Solved,
    kernel: np.ndarray,
    worth: np.ndarray,
    title: str,
) -> None:
    from jaxrl.report.plan_picture import PlanPicture, draw_plan

    picture = PlanPicture(
        mdp=mdp,
        values=np.asarray(found.values),
        policy=np.asarray(found.policy),
        kernel=kernel,
        worth=worth,
        title=title,
        grid=grid_layout(arguments.env, parameters, mdp),
        value_label="relative value [return]" if arguments.average_reward else "value [return]",
    )
    draw_plan(run.plots / "plan.png", picture)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: None stands for both."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
