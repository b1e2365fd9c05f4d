"""Classic control as pure structs: every physical constant is a leaf with a unit and a range."""

from jaxrl.envs.control.acrobot import Acrobot, AcrobotState
from jaxrl.envs.control.cartpole import CartPole, CartPoleState
from jaxrl.envs.control.mountain_car import MountainCar, MountainCarContinuous, MountainCarState
from jaxrl.envs.control.pendulum import Pendulum, PendulumState

__all__ = [
    "Acrobot",
    "AcrobotState",
    "CartPole",
    "CartPoleState",
    "MountainCar",
    "MountainCarContinuous",
    "MountainCarState",
    "Pendulum",
    "PendulumState",
]
