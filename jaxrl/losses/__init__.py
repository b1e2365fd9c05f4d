"""What a head or a critic minimises: one example in, one number out."""

from jaxrl.losses.classification import cross_entropy
from jaxrl.losses.expectile import expectile_loss
from jaxrl.losses.likelihood import energy_loss, gaussian_cross_entropy
from jaxrl.losses.quantile import quantile_huber_loss, quantile_levels
from jaxrl.losses.regression import huber_loss, squared_loss

__all__ = [
    "cross_entropy",
    "energy_loss",
    "expectile_loss",
    "gaussian_cross_entropy",
    "huber_loss",
    "quantile_huber_loss",
    "quantile_levels",
    "squared_loss",
]
