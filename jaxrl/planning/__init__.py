"""Solvers on known models."""
