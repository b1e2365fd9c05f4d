"""Environments: every gymnax environment, tabular MDPs, wrappers, and a registry of names."""

from jaxrl.envs.bandits import Bandit, BanditState, CoinPayout, NormalPayout, Payout, bandit
from jaxrl.envs.chains import chain, cycle, deep_sea, riverswim
from jaxrl.envs.checker import check
from jaxrl.envs.collecting import CollectingGrid, CollectingState, collecting_grid
from jaxrl.envs.control import (
    Acrobot,
    AcrobotState,
    CartPole,
    CartPoleState,
    MountainCar,
    MountainCarContinuous,
    MountainCarState,
    Pendulum,
    PendulumState,
)
from jaxrl.envs.finance import OptionTerms, american_option, gambler
from jaxrl.envs.garnet import garnet
from jaxrl.envs.grid_levels import (
    DugWalls,
    GridLevel,
    LevelGenerator,
    ScatteredWalls,
    grid_distances,
    is_solvable,
)
from jaxrl.envs.gridworlds import (
    LAKE_4X4,
    LAKE_8X8,
    cliff_walking,
    frozen_lake,
    windy_cliff,
    windy_gridworld,
    windy_walk,
)
from jaxrl.envs.gymnasium_table import gymnasium_mdp
from jaxrl.envs.gymnax import GymnaxEnv, gymnax_env
from jaxrl.envs.mazes import FOUR_ROOMS, four_rooms, random_maze
from jaxrl.envs.operations import (
    InventoryCosts,
    access_control_queue,
    inventory,
    machine_replacement,
)
from jaxrl.envs.regimes import Regime, regime_option, regime_portfolio
from jaxrl.envs.registry import make, names, register
from jaxrl.envs.semi_markov import semi_markov_mdp
from jaxrl.envs.tabular import TabularEnv, TabularState
from jaxrl.envs.two_colours import TwoColours, TwoColoursState, two_colours
from jaxrl.envs.walled import WalledGrid, WalledState, walled_grid

__all__ = [
    "FOUR_ROOMS",
    "LAKE_4X4",
    "LAKE_8X8",
    "Acrobot",
    "AcrobotState",
    "Bandit",
    "BanditState",
    "CartPole",
    "CartPoleState",
    "CoinPayout",
    "CollectingGrid",
    "CollectingState",
    "DugWalls",
    "GridLevel",
    "GymnaxEnv",
    "InventoryCosts",
    "LevelGenerator",
    "MountainCar",
    "MountainCarContinuous",
    "MountainCarState",
    "NormalPayout",
    "OptionTerms",
    "Payout",
    "Pendulum",
    "PendulumState",
    "Regime",
    "ScatteredWalls",
    "TabularEnv",
    "TabularState",
    "TwoColours",
    "TwoColoursState",
    "WalledGrid",
    "WalledState",
    "access_control_queue",
    "american_option",
    "bandit",
    "chain",
    "check",
    "cliff_walking",
    "collecting_grid",
    "cycle",
    "deep_sea",
    "four_rooms",
    "frozen_lake",
    "gambler",
    "garnet",
    "grid_distances",
    "gymnasium_mdp",
    "gymnax_env",
    "inventory",
    "is_solvable",
    "machine_replacement",
    "make",
    "names",
    "random_maze",
    "regime_option",
    "regime_portfolio",
    "register",
    "riverswim",
    "semi_markov_mdp",
    "two_colours",
    "walled_grid",
    "windy_cliff",
    "windy_gridworld",
    "windy_walk",
]
