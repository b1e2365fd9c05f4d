"""The optimiser of every agent: Adam on clipped gradients, with all its numbers traced."""

from __future__ import annotations

import jax
import optax

from jaxrl.core import struct
from jaxrl.core.schedules import Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Progress, PyTree


@struct.dataclass
class Optimiser:
    """Adam (Kingma & Ba 2015) after clipping by the global norm (Pascanu et al. 2013)."""

    learning_rate: float | Schedule = setting(
        3e-4, "step size of Adam", unit="per update", low=0.0, low_open=True
    )
    max_grad_norm: float | None = setting(
        0.5,
        "global norm above which gradients are scaled down; None for no clipping",
        low=0.0,
        low_open=True,
    )
    epsilon: float = setting(1e-5, "added to Adam's denominator", low=0.0, low_open=True)
    eps_root: float = setting(
        1e-16, "added under Adam's root, so that it has a derivative at 0", low=0.0
    )

    def _transform(self) -> optax.GradientTransformation:
        adam = optax.scale_by_adam(eps=self.epsilon, eps_root=self.eps_root)
        if self.max_grad_norm is None:
            return adam
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), adam)

    def init(self, params: PyTree) -> PyTree:
        """The optimiser's state for `params`."""
        return self._transform().init(params)

    def step(
        self, grads: PyTree, state: PyTree, params: PyTree, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        """One step downhill -> `params`, `state`."""
        updates, state = self._transform().update(grads, state, params)
        learning_rate = value_at(self.learning_rate, progress)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        return params, state
