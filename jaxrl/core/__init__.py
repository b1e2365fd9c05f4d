"""What every floor shares: types, contracts, settings, spaces, schedules, tabular models."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
