"""Networks and policy distributions, in flax.linen."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
