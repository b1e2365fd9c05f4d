"""What a head or a critic minimises: one example in, one number out."""

from jaxrl.losses.classification import cross_entropy
from jaxrl.losses.quantile import quantile_huber_loss, quantile_levels
from jaxrl.losses.regression import huber_loss, squared_loss

__all__ = [
    "cross_entropy",
    "huber_loss",
    "quantile_huber_loss",
    "quantile_levels",
    "squared_loss",
]
