"""Train jaxrl and measure it; run by `throughput.py`, with the interface of `rejax_driver.py`.

The settings and the network are tabled in `throughput_settings.py`.
"""

from __future__ import annotations

from driver_loop import Program, drive, parse_arguments
from throughput_settings import SETTINGS, whole_iterations


def jaxrl_program(agent: str, env: str, num_seeds: int, num_steps: int) -> Program:
    """`num_seeds` runs of `agent` as one vmapped program of jaxrl.

    To be filled with `jaxrl.sweep`. The rules that make the comparison fair:

    * every number and the network come from `SETTINGS[agent, env]`;
    * `compile` leaves nothing to be compiled by `run(1)`: a changed key must not retrace;
    * `run(number)` trains all seeds from scratch with keys that depend on `number`, network
      initialisation included, and returns the final agent states (the caller waits for them);
    * one seed is trained without `vmap`, as the rejax side is (a vmap of width 1 cost rejax 1.9x);
    * nothing is printed on standard output, which carries the JSON lines;
    * evaluation, checkpoints and files are off inside `run`;
    * `score` plays the trained policy as rejax does: PPO samples its actions, DQN is
      epsilon-greedy with 0.005; 8 episodes of each seed, mean over all.
    """
    settings = SETTINGS[agent, env]
    num_steps = whole_iterations(settings, num_steps)
    raise NotImplementedError(
        f"jaxrl side of {agent} on {env}, {num_seeds} seeds, {num_steps} steps: "
        "return Program(compile, run, score, env_steps=num_seeds * num_steps)"
    )


def main() -> None:
    arguments = parse_arguments(__doc__)
    job = (arguments.agent, arguments.env, arguments.num_seeds, arguments.num_steps)
    drive(jaxrl_program(*job), arguments)


if __name__ == "__main__":
    main()
