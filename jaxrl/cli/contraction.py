"""Why an operator may not contract."""

from __future__ import annotations

from jaxrl.operators import BellmanOperator
from jaxrl.operators.bellman import describe


def why_no_contraction(operator: BellmanOperator) -> str:
    """One line on why an operator has no certificate of contraction; empty when it has."""
    if operator.contracts:
        return ""
    functional, reasons = operator.successor_functional, []
    if not functional.facts.monotone:
        reasons.append(f"{describe(functional)} is not monotone")
    if not functional.facts.translation_equivariant:
        reasons.append(f"{describe(functional)} does not move with a sure amount")
    if not operator.improvement.facts.nonexpansive:
        reasons.append(f"{describe(operator.improvement)} can spread values apart")
    if not operator.composition.facts.contracts:
        reasons.append(f"{describe(operator.composition)} does not shrink by the discount")
    if not operator.return_functional.facts.is_expectation:
        reasons.append(f"{describe(operator.return_functional)} of a return law chooses actions")
    return (
        f"this operator has no certificate of contraction ({'; '.join(reasons)}): a fixed point "
        "may not exist, may not be the only one, and may not be approached."
    )
