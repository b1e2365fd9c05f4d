"""Targets and advantages along a stretch of experience, `[T, ...] -> [T, ...]`."""

from jaxrl.returns.advantages import generalised_advantages
from jaxrl.returns.stock import next_stock
from jaxrl.returns.traces import lambda_returns, n_step_returns, peng_q_lambda_returns

__all__ = [
    "generalised_advantages",
    "lambda_returns",
    "n_step_returns",
    "next_stock",
    "peng_q_lambda_returns",
]
