"""Learn the update rules and settings that agents use."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
