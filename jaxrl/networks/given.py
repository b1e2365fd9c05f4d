"""Networks of your own: any module of flax, and any pair of functions, in the place of settings.

    a flax.linen module                  MyModule(width=64)
    what builds a flax.nnx module        functools.partial(nnx.Linear, 4, 64), called with `rngs`
    a flax.nnx module                    nnx.Linear(4, 64, rngs=nnx.Rngs(0)): every life starts from
                                         the parameters that it has
    two functions `(init, apply)`        init(key, observations) -> params, a pytree of arrays;
                                         apply(params, observations) -> features

Each is fed a batch of observations `[N, *observation]` as the space has them, states of a Discrete
space as `[N]` int32, of a dict of spaces a dict of such arrays, and gives *features* `[N, D]`. The
agent's own output layer stands on these, whatever it is: values of actions, a policy, the numbers
of a head, dueling or not. So a module that ends in one number for each action is a torso with as
many features: leave its last layer out.

Where an agent puts something between its torso and its last hidden layer, a layer of D rectified
units follows the features: the actions, which join them in critics of (state, action) pairs as in
Lillicrap et al. 2016, section 7, or the levels of an implicit quantile network.

Each use draws its own parameters: actor and critic, every critic of an ensemble, every seed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxrl.core import Struct, struct
from jaxrl.core.spaces import Space, is_leaf
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.networks.torsos import MLP, Network, Torso, space_facts

_CLOSED = {"setting": False, "closed": "A network of your own has no settings: give another one."}


class GivenNetwork(Struct):
    """A module of flax.linen as the torso of an agent; `as_network` makes it.

    Attributes:
        module: from `[N, *observation]` to features `[N, D]`.
        name: of what was given, for messages.
    """

    module: nn.Module = struct.field(pytree_node=False, metadata=_CLOSED)
    name: str = struct.field(pytree_node=False, default="")

    initialiser = "orthogonal"
    recurrent_size = 0

    def torso(self, space: Space) -> Torso:
        """The module round which agents build.

        Raises:
            ValueError: it does not take such observations, does not give features, or keeps
                anything beside its parameters.
        """
        torso = Torso(self, *space_facts(space))
        batch = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), space, is_leaf=is_leaf
        )
        kinds = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", batch)
        told = f"network={self.name} with observations {kinds}"
        try:
            variables = jax.eval_shape(torso.init, jax.random.key(0), batch)
            _check_rest(name for name in variables if name != "params")
            jax.eval_shape(torso.apply, variables, batch)
        except Exception as error:  # whatever a module of another's raises
            raise ValueError(f"{told}: {str(error).strip() or type(error).__name__}") from error
        return torso

    def features(self, torso: Torso, observation: PyTree, action: Array | None) -> Array:
        """All leading axes made one for the module, and again as they were; a layer that joins the
        action."""
        leaf = jax.tree.leaves(observation)[0]
        num_lead = leaf.ndim - (torso.leaves[0][0] if torso.leaves else torso.num_axes)
        batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[num_lead:]), observation)
        found = jnp.asarray(self.module.clone(parent=torso, name="given")(batch))
        size = math.prod(leaf.shape[:num_lead])
        if found.shape[:-1] != (size,) or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"the module gives {found.dtype}{list(found.shape)}, not features, real numbers "
                f"[{size}, D], as x.reshape(x.shape[0], -1) makes of more axes."
            )
        features = found.reshape(*leaf.shape[:num_lead], found.shape[-1])
        if action is None:
            return features
        return self.last(found.shape[-1])(jnp.concatenate([features, action], axis=-1))

    def before_last(self) -> GivenNetwork:
        """The whole module."""
        return self

    def last(self, width: int) -> MLP:
        """A layer of as many rectified units as there are features."""
        return MLP((width,), "relu", self.initialiser, layer_norm=False)


def as_network(given: Any) -> Network:
    """What is given as `network` of an agent, as agents read it: see the head of this module.

    Raises:
        ValueError: it is nothing that agents can build on.

    Example:
        >>> from jaxrl.core import Box
        >>> torso = as_network(nn.Dense(64)).torso(Box(-1.0, 1.0, (3,)))
        >>> found, _ = jax.eval_shape(torso.init_with_output, jax.random.key(0), jnp.zeros((7, 3)))
        >>> found.shape
        (7, 64)
    """
    if isinstance(given, Network) and not isinstance(given, type):
        return given
    nnx = sys.modules.get("flax.nnx")  # whoever gives one has imported it
    if isinstance(given, nn.Module):
        return GivenNetwork(given.clone(parent=None, name=None), type(given).__name__)
    if nnx is not None and isinstance(given, nnx.Module):
        return GivenNetwork(_NnxModule(_Copy.of(given)), type(given).__name__)
    if isinstance(given, tuple) and len(given) == 2 and all(map(callable, given)):
        return GivenNetwork(_Pair(*given), getattr(given[1], "__name__", "(init, apply)"))
    builds = not isinstance(given, type) or (nnx is not None and issubclass(given, nnx.Module))
    if builds and callable(given):
        build = functools.partial(given)  # of a partial: its function and arguments
        module = _NnxModule(build.func, build.args, tuple(build.keywords.items()))
        return GivenNetwork(module, getattr(build.func, "__name__", "what builds one"))
    raise ValueError(
        f"network={given!r} cannot be built on: give NetworkSettings, a flax.linen module, a "
        "flax.nnx module or what builds one, or a pair of functions (init, apply)."
    )


def _check_rest(kinds: Iterable[str]) -> None:
    """Raise `ValueError` where a module keeps such kinds of numbers beside its parameters."""
    if kinds := sorted({*kinds}):
        raise ValueError(
            f"the module keeps {', '.join(kinds)} beside its parameters, which agents do not carry "
            "along: normalise by LayerNorm, not BatchNorm, and leave out dropout."
        )


class _Pair(nn.Module):
    """Two functions as a module: its one parameter is all that the first gives."""

    make: Callable[[Key, PyTree], PyTree]
    use: Callable[[PyTree, PyTree], Array]

    @nn.compact
    def __call__(self, observation: PyTree) -> Array:
        return self.use(self.param("own", self.make, observation), observation)


class _NnxModule(nn.Module):
    """What builds a flax.nnx module, as a module of flax.linen."""

    build: Callable[..., Any]
    args: tuple = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    @nn.compact
    def __call__(self, observation: PyTree) -> Array:
        from flax import nnx

        def built(key: Key) -> Any:
            return self.build(*self.args, **dict(self.keywords), rngs=nnx.Rngs(key))

        def init(key: Key) -> PyTree:
            return nnx.to_pure_dict(nnx.state(built(key), nnx.Param))

        graph, state = _split(nnx.eval_shape(built, jax.random.key(0)))
        nnx.replace_by_pure_dict(state, self.param("own", init))
        return nnx.merge(graph, state)(observation)


def _split(module: Any) -> tuple[Any, Any]:
    """The graph and the parameters of a flax.nnx module, which must be all that it keeps."""
    from flax import nnx

    graph, state, rest = nnx.split(module, nnx.Param, ...)
    _check_rest(type(one).__name__ for _, one in nnx.to_flat_state(rest))
    return graph, state


@dataclasses.dataclass(frozen=True)
class _Copy:
    """A flax.nnx module as it is; called, it is built again. Equal ones have the same numbers."""

    digest: str
    graph: Any = dataclasses.field(repr=False)
    structure: Any = dataclasses.field(repr=False)
    leaves: list[np.ndarray] = dataclasses.field(repr=False, compare=False)

    @classmethod
    def of(cls, module: Any) -> _Copy:
        graph, state = _split(module)
        leaves, structure = jax.tree.flatten(jax.device_get(state))
        numbers = b"".join(f"{x.dtype}{x.shape}".encode() + x.tobytes() for x in leaves)
        return cls(hashlib.sha256(numbers).hexdigest(), graph, structure, leaves)

    def __call__(self, rngs: Any) -> Any:
        from flax import nnx

        return nnx.merge(self.graph, jax.tree.unflatten(self.structure, self.leaves))
