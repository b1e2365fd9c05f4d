"""Scalars of a finite law `(probs[N], values[N]) -> []`: expectation, risk, ambiguity.

Every functional is called with `probs[N]`, non-negative and summing to one, and `values[N]`
[return]; it gives `[]` [return]. An atom of zero probability may hold anything, inf and NaN
included, unless `support="full"` lets nature use it. Settings out of their range raise ValueError
when they are concrete; a tracer passes. What holds whatever the settings, such as that a worst case
is coherent, every functional states as its `facts` (`core.protocols.FunctionalFacts`).

`functional.dual(least)` is the form for one sample at a time, where there is one (`duals`).
"""

from jaxrl.core.doors import door
from jaxrl.core.notation import register

__getattr__, __dir__ = door(__file__, __name__)

register(
    "functionals",
    *(
        part
        for part in map(__getattr__, __dir__())
        if hasattr(part, "facts") and part.__name__ != "PerPair"
    ),
    kl="kl_ball",
    tv="total_variation",
    chi2="chi_square_ball",
    w1="wasserstein",
    l2="ellipsoid",
    l2_ball="ellipsoid",
    burg="burg_ball",
    f_divergence="divergence_ball",
    oce="optimised_certainty_equivalent",
    average_value_at_risk="cvar",
    value_at_risk="var",
    expectation="mean",
)
