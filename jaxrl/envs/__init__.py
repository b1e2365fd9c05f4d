"""Environments: every gymnax environment, tabular MDPs, wrappers, and a registry of names."""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
