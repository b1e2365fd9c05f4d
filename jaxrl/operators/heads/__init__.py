"""How a return is stored by a network or a table."""

from jaxrl.operators.heads.categorical import Categorical
from jaxrl.operators.heads.quantile import Quantile
from jaxrl.operators.heads.scalar import Scalar

__all__ = ["Categorical", "Quantile", "Scalar"]
