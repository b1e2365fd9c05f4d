"""Stored experience: uniform, prioritised, episode-aware."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
