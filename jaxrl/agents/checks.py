"""What agents refuse before anything is compiled, and the remedy each refusal names."""

from __future__ import annotations

from jaxrl.core.protocols import Environment
from jaxrl.core.spaces import Discrete
from jaxrl.networks import NetworkSettings


def check_discrete_actions(env: Environment) -> None:
    """Raise `ValueError` unless the actions are discrete."""
    if not isinstance(env.action_space, Discrete):
        raise ValueError(
            "Q-learning chooses among discrete actions, and this environment's are continuous: "
            "use ppo, sac or td3."
        )


def check_feed_forward(network: NetworkSettings, env: Environment) -> None:
    """Raise `ValueError` for observations without a torso, or a recurrent network."""
    network.torso(env.observation_space)
    if network.recurrent_size:
        raise ValueError("recurrent_size is for actor-critic agents; leave it at 0 here.")


def check_minibatches(what: str, size: int, num_minibatches: int) -> None:
    """Raise `ValueError` unless a rollout divides into equal minibatches.

    Args:
        what: the settings that make up `size`, for the message.
        size: what is divided: steps, or whole sequences for a recurrent network.
        num_minibatches: equal parts wanted.
    """
    if size % num_minibatches:
        raise ValueError(
            f"{what} = {size} does not divide into num_minibatches={num_minibatches} "
            "equal parts: change one of them."
        )
