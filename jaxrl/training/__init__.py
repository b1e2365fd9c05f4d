"""Training, sweeps, evaluation, attacks and what a run leaves on disk."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
