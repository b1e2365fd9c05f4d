from jaxrl.envs.control.acrobot import Acrobot as Acrobot
from jaxrl.envs.control.cartpole import CartPole as CartPole
from jaxrl.envs.control.mountain_car import MountainCar as MountainCar
from jaxrl.envs.control.pendulum import Pendulum as Pendulum
