"""Learners: presets by name, the agents behind them, and the parts they are made of."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
