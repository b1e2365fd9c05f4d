"""Environments: every gymnax environment, tabular MDPs, wrappers, and a registry of names."""

from jaxrl.envs.chains import deep_sea, riverswim
from jaxrl.envs.garnet import garnet
from jaxrl.envs.gymnax import GymnaxEnv, gymnax_env
from jaxrl.envs.registry import make, names, register
from jaxrl.envs.tabular import TabularEnv, TabularState

__all__ = [
    "GymnaxEnv",
    "TabularEnv",
    "TabularState",
    "deep_sea",
    "garnet",
    "gymnax_env",
    "make",
    "names",
    "register",
    "riverswim",
]
