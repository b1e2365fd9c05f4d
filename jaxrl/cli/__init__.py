"""The `jaxrl` command. Nothing here imports jax before it has to: `jaxrl --help` is quick."""

from jaxrl.cli.command import main

__all__ = ["main"]
