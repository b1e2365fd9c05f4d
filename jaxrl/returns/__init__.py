"""Targets and advantages along a stretch of experience, `[T, ...] -> [T, ...]`."""

from jaxrl.returns.traces import generalised_advantages, lambda_laws, lambda_returns, next_stock

__all__ = ["generalised_advantages", "lambda_laws", "lambda_returns", "next_stock"]
