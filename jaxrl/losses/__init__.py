"""Losses: a prediction against a number, or parameters against a law."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
