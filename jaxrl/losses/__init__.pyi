from jaxrl.losses.formulas import (
    cross_entropy as cross_entropy,
    energy_loss as energy_loss,
    expectile_loss as expectile_loss,
    gaussian_cross_entropy as gaussian_cross_entropy,
    huber_loss as huber_loss,
    quantile_huber_loss as quantile_huber_loss,
)
