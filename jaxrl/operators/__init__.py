"""Bellman operators and their parts."""

from jaxrl.core.doors import door
from jaxrl.operators import (  # which register their parts
    composition as composition,
    grid_heads as grid_heads,
    improvement as improvement,
    quantile_heads as quantile_heads,
    statistic_heads as statistic_heads,
    tsallis as tsallis,
)

__getattr__, __dir__ = door(__file__, __name__)
