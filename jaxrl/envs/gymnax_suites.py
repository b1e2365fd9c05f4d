"""What gymnax offers, by suite: one line each, and the sizes of observations and actions.

Kept by hand so that listing them needs no import of gymnax; tests compare them with gymnax.
"""

from __future__ import annotations

_PARTIAL = True  # observations hide what an agent should remember
GYMNAX_SUITES: dict[str, dict[str, tuple]] = {
    "gymnax classic": {
        "Acrobot-v1": ("Swing up the tip of an arm of two links.", (6,), 3),
        "CartPole-v1": ("Push a cart so that the pole on it does not fall.", (4,), 2),
        "MountainCar-v0": ("Drive a weak car out of a valley.", (2,), 3),
        "MountainCarContinuous-v0": ("Drive a weak car out of a valley, fuel is paid.", (2,), (1,)),
        "Pendulum-v1": ("Swing up a rod and hold it.", (3,), (1,)),
    },
    "MinAtar": {
        "Asterix-MinAtar": ("Collect gold, avoid enemies, faster and faster.", (10, 10, 4), 5),
        "Breakout-MinAtar": ("Break bricks with a ball and a paddle.", (10, 10, 4), 3),
        "Freeway-MinAtar": ("Cross a road of eight cars.", (10, 10, 7), 3),
        "Seaquest-MinAtar": ("Rescue divers, shoot fish, come up for air.", (10, 10, 10), 6),
        "SpaceInvaders-MinAtar": ("Shoot aliens that come nearer.", (10, 10, 6), 4),
    },
    "bsuite": {
        "Catch-bsuite": ("Catch a ball that falls.", (10, 5), 3),
        "DeepSea-bsuite": ("Find the one way to a treasure: deep exploration.", (8, 8), 2),
        "DiscountingChain-bsuite": ("Choose one of five rewards, near or far.", (2,), 5),
        "MNISTBandit-bsuite": ("Name the digit in a picture.", (28, 28), 10),
        "MemoryChain-bsuite": ("Remember a bit shown at the start.", (3,), 2, _PARTIAL),
        "SimpleBandit-bsuite": ("Pull one of eleven arms of fixed rewards.", (1, 1), 11),
        "UmbrellaChain-bsuite": ("Take an umbrella or not: what matters comes late.", (3,), 2),
    },
    "gymnax misc": {
        "BernoulliBandit-misc": ("Find out in an episode which coin pays.", (4,), 2, _PARTIAL),
        "FourRooms-misc": ("Walk through four rooms to a goal.", (4,), 4),
        "FrozenLake-misc": ("Cross slippery ice without falling into a hole.", 16, 4),
        "GaussianBandit-misc": ("Find out in an episode which arm pays.", (4,), 2, _PARTIAL),
        "MetaMaze-misc": ("Find out in an episode where the goal is.", (15,), 4, _PARTIAL),
        "PointRobot-misc": ("Find a hidden goal in the plane.", (6,), (2,), _PARTIAL),
        "Pong-misc": ("Keep a ball in play.", (30, 40, 3), 3),
        "Reacher-misc": ("Reach a goal with an arm of two links.", (8,), (2,)),
        "Swimmer-misc": ("Swim to a goal past urchins.", (16,), (2,)),
    },
}
