"""`jaxrl plan`: solve a tabular environment exactly, and draw values, policy and adversary."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrl.planning as planning
from jaxrl.cli.arguments import BadInput, import_modules, refusing
from jaxrl.cli.grids import grid_layout
from jaxrl.cli.job import default_folder, environment_parameters, parse_part, place_of, shown_parts
from jaxrl.cli.notices import why_no_contraction
from jaxrl.cli.screen import as_json, say, show
from jaxrl.core import notation
from jaxrl.core.files import replacing, write_json
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.schedules import has_schedule
from jaxrl.core.settings import replace_path
from jaxrl.core.types import Array
from jaxrl.envs import TabularEnv, facts_of, make, names
from jaxrl.envs.gymnax import GYMNAX_NAMES
from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe
from jaxrl.planning.backups import outcome_values
from jaxrl.training.run_folder import RunFolder, open_run

_MODEL = ("prob", "next_state", "reward", "terminal", "initial", "legal", "discount")
_SHOWN = {
    "gain": "gain [return per step]",
    "start_value": "value at the start [return]",
    "num_iterations": "iterations",
    "residual": "residual",
    "error_bound": "error bound",
    "converged": "converged",
}


def run(arguments: Namespace, words: Sequence[str]) -> int:
    """Solve, show, write and draw.

    Args:
        arguments: what was asked.
        words: the command line that said so, noted in the folder.

    Returns:
        0; 1 when the iteration did not converge.

    Raises:
        BadInput: anything that cannot be.
    """
    if arguments.average_reward and (arguments.horizon or arguments.discount is not None):
        raise BadInput("--average-reward has neither --horizon nor --discount: leave them out.")
    import_modules(arguments.imports)
    parts = {option: parse_part(option, text) for option, text in arguments.parts.items()}
    operator = BellmanOperator()
    for option, part in parts.items():
        operator = replace_path(operator, place_of(option).removeprefix("operator."), part)
    if has_schedule(operator):
        raise BadInput("A schedule needs a training run: give a plan the number itself.")
    parameters = environment_parameters(arguments.env_settings)
    config = {
        "plan": arguments.env,
        "env_settings": {name: notation.to_plain(value) for name, value in parameters.items()},
        "parts": shown_parts(parts),
    }
    names = ("discount", "horizon", "average_reward", "tolerance", "max_iterations")
    config |= {name: getattr(arguments, name) for name in names}
    folder = default_folder(f"{arguments.env}-plan", config)
    with jax.enable_x64(True):  # the model too is made of 64-bit numbers
        mdp = _model(arguments, parameters)
        with refusing(ValueError):
            operator.require_successors(mdp.num_outcomes, exact=True)
        path = Path(arguments.run_dir or folder)
        with refusing(ValueError, OSError):
            run = open_run(path, config, arguments.overwrite, ["jaxrl", *words])
        with run:
            run.set_status("running")
            try:
                return _solve_in(run, arguments, operator, mdp, parameters)
            except BaseException as error:
                run.set_status("failed", {"reason": f"{type(error).__name__}: {error}"[:2000]})
                raise


def _model(arguments: Namespace, parameters: dict[str, Any]) -> TabularMDP:
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
    arguments: Namespace,
    operator: BellmanOperator,
    mdp: TabularMDP,
    parameters: dict[str, Any],
) -> int:
    """Solve, show, write; the exit code."""
    from jaxrl.report import PlanPicture, draw_plan

    start, relative = time.perf_counter(), arguments.average_reward
    with refusing(ValueError):
        solution, model, later, note = _solve(arguments, operator, mdp)
    kernel = planning.worst_case_kernel(model, operator, later, solution.policy)
    seconds = time.perf_counter() - start
    parts = [operator.successor_functional, operator.improvement, operator.composition]
    shown = [describe(part).removesuffix("()") for part in parts]
    title = f"{arguments.env}: {', '.join(one for one in shown if one != 'DiscountedSum')}"
    worth = {"gain": float(solution.gain)} if solution.gain is not None else {}
    facts = worth or {"start_value": float(mdp.initial @ solution.values)}
    facts |= {"num_iterations": int(solution.num_iterations)}
    facts |= {name: float(getattr(solution, name)) for name in ("residual", "error_bound")}
    converged = bool(solution.converged)
    note = note or _promise(facts, converged, float(mdp.discount) >= 1 and not relative)
    rows = [("states x actions", f"{mdp.num_states:,} x {mdp.num_actions:,}")]
    rows += [] if relative else [("discount", f"{float(mdp.discount):g}")]
    rows += [
        (_SHOWN[name], f"{value:.8g}" if isinstance(value, float) else f"{value:,}")
        for name, value in facts.items()
    ]
    rows.append((_SHOWN["converged"], str(converged).lower()))
    show(["", "found"], rows, numeric=["found"], title=title)
    for text in filter(None, (why_no_contraction(operator), note)):
        say(f"note: {text}")
    # The solution, nature's kernel, and the model that both speak of.
    with replacing(run.path / "solution.npz") as stream:
        found = {name: getattr(solution, name) for name in ("values", "q_values", "policy")}
        tables = {name: getattr(mdp, name) for name in _MODEL}
        np.savez_compressed(stream, **found, kernel=kernel, **tables)
    worths = jnp.broadcast_to(outcome_values(model, operator, later), mdp.prob.shape)
    picture = PlanPicture(
        mdp=mdp,
        values=np.asarray(solution.values),
        policy=np.asarray(solution.policy),
        kernel=np.asarray(kernel),
        worth=np.asarray(worths),
        title=title,
        grid=grid_layout(arguments.env, parameters, mdp),
        value_label="relative value [return]" if relative else "value [return]",
    )
    draw_plan(run.plots / "plan.png", picture)
    summary = {
        "title": title,
        "num_states": mdp.num_states,
        "num_actions": mdp.num_actions,
        "discount": None if relative else float(mdp.discount),
        "contracts": operator.contracts,
        **facts,
        "converged": converged,
        "note": note,
        "seconds": round(seconds, 3),
    }
    write_json(run.path / "summary.json", as_json(summary))
    run.set_status("done" if converged else "failed", names=("solution.npz", "summary.json"))
    for name in ("solution.npz", "summary.json", "plots/plan.png"):
        say(f"written: {run.path / name}")
    return 0 if converged else 1


def _solve(
    arguments: Namespace, operator: BellmanOperator, mdp: TabularMDP
) -> tuple[planning.Solution, TabularMDP, Array, str]:
    """The solution, the model whose outcomes are worth what follows, the values `[S]` of the
    successors in it [return], and what the numbers do not promise where that is known."""
    if arguments.horizon is not None:
        found = planning.finite_horizon(mdp, operator, horizon=arguments.horizon)
        values, exact = found.values[0], jnp.zeros(())
        finite, sweeps = jnp.isfinite(mdp.initial @ values), jnp.asarray(arguments.horizon)
        first = values, found.q_values[0], found.policy[0]
        solution = planning.Solution(*first, exact, exact, num_iterations=sweeps, converged=finite)
        note = f"backward induction over {arguments.horizon} steps, exact but for rounding; what "
        note += "is drawn and written is for the first step."
        return solution, mdp, found.values[1], note
    limits = {"tolerance": arguments.tolerance, "max_iterations": arguments.max_iterations}
    if not arguments.average_reward:
        solution = planning.value_iteration(mdp, operator, **limits)
        return solution, mdp, solution.values, ""
    solution = planning.relative_value_iteration(mdp, operator, **limits)
    # What ends begins anew: the first states' values stand for what follows the end.
    again = mdp.terminal * (mdp.initial @ solution.values)
    model = mdp.replace(reward=mdp.reward + again, discount=jnp.ones_like(mdp.discount))
    return solution, model, solution.values, ""


def _promise(facts: dict[str, Any], converged: bool, undiscounted: bool) -> str:
    """What a reader must know of a solution that is not certified within the tolerance."""
    remedy = "--discount 0.99 or --horizon 200"
    if not converged:
        if not math.isfinite(facts["residual"]):
            return f"not converged: the values are not finite; try {remedy}."
        reached = f"residual {facts['residual']:.3g}, error bound {facts['error_bound']:.3g}"
        more = f", or give {remedy}" if undiscounted else ""
        return f"not converged ({reached}): raise --max-iterations or --tolerance{more}."
    if math.isfinite(facts["error_bound"]):
        return ""
    if undiscounted:
        return (
            "at discount 1 some policy never ends, so that the residual is within the tolerance "
            f"but no bound on the error is known; {remedy} have one."
        )
    return "the residual is within the tolerance, but no bound on the error is known."
