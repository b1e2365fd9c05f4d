"""Classic control as pure structs: every physical constant is a leaf with a unit and a range."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
