"""Every functional at the ends of every setting's range, as float32 and float64 see them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_functionals import FUNCTIONALS

from jaxrl.core import check_settings, list_settings, replace_setting
from jaxrl.functionals import Entropic

PROBS = np.array([0.1, 0.2, 0.0, 0.3, 0.15, 0.2, 0.05])
VALUES = np.array([3.0, -1.0, 50.0, 0.5, 0.5, 2.0, -4.0])
OFTEN = ("CVaR", "Entropic", "KLBall")


def cases():
    seen = set()
    for functional in FUNCTIONALS.values():
        kind = type(functional).__name__
        if kind in seen or not dataclasses.is_dataclass(functional):
            continue
        seen.add(kind)
        settings = [i for i in list_settings(functional) if isinstance(i.value, float)]
        if settings:
            marks = [] if kind in OFTEN else [pytest.mark.slow]
            yield pytest.param(functional, settings, id=kind, marks=marks)


def ends(info, wide):
    """The least and the greatest value that is allowed, or what stands for it."""
    type_ = np.float64 if wide else np.float32
    tiny, huge = np.finfo(np.float32).tiny * 4, 1e30
    low = info.low if np.isfinite(info.low) else -huge
    high = info.high if np.isfinite(info.high) or info.infinite else huge
    inner = np.nextafter(type_(low), type_(np.inf)) if low else type_(tiny)
    return [float(inner if info.low_open else low), float(inner), float(high)]


@pytest.mark.parametrize("functional, settings", list(cases()))
@pytest.mark.parametrize("wide", [False, True])
def test_it_is_a_number_between_the_extremes_or_refused(functional, settings, wide):
    """Of coherent functionals; others must at least not be NaN."""
    with jax.enable_x64(wide):
        number = jnp.float64 if wide else jnp.float32
        probs, values = jnp.asarray(PROBS, number), jnp.asarray(VALUES, number)
        run = jax.jit(lambda functional: functional(probs, values))
        for info in settings:
            for end in ends(info, wide):
                try:
                    changed = replace_setting(functional, info.name, end)
                    check_settings(changed)
                except ValueError:
                    continue
                found = float(run(jax.tree.map(lambda x: jnp.asarray(x, number), changed)))
                assert not np.isnan(found), (info.name, end)
                if functional.coherent:
                    assert -4.0001 <= found <= 3.0001, (info.name, end)


@pytest.mark.parametrize("aversion", [float("inf"), -float("inf"), float("nan"), 1e39])
def test_an_aversion_without_a_number_is_refused(aversion):
    with pytest.raises(ValueError, match="risk_aversion"):
        Entropic(aversion)
