"""The learned policy gradient: what to predict, and how to learn from it, are both learned."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.lifetime import lifetime_features
from jaxrl.core.protocols import RuleFacts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, Transition
from jaxrl.networks.distributions import FiniteLaw
from jaxrl.rules.contract import PolicyOutputs, PolicyTargets, random_weights, remember_nothing

_HEAD = "prediction"


class LearnedPolicyGradient(Struct):
    """A backward LSTM over the rollout says how to move the policy and what to predict.

        y_t = softmax(head "prediction" at s_t),  phi(y) = relu(y @ embed + b) . embed_out + b'
        x_t = (reward, discount, terminated, pi(a_t | s_t), phi(y_t), phi(y_{t+1}))
        (pi_hat_t, y_hat_t) = outputs of the LSTM that reads x_T ... x_t
        loss = -log_prob pi_hat + prediction_weight KL(y || y_hat)

    y is a categorical prediction whose meaning the rule invents; y_{t+1} is that of the true
    successor, with phi = 0 where there is none. The state of the LSTM is emptied *before* it reads
    a step that ends an episode, terminated or truncated: nothing passes from one episode to the one
    before. `timed` adds the two `lifetime_features` to x. The value network is not used. For
    continuous actions the log-density stands in for the probability.

    Set `normalise_advantages=False` in the agent, which is checked: pi_hat travels as the
    advantage, and its scale is the rule's own. Take one epoch of one minibatch: a second step
    would be off policy.

    Attributes:
        weights: `embed[m, E]`, `embed_bias[E]`, `embed_out[E]`, `embed_out_bias[]`,
            `inputs[F, 4H]` (F = 6, timed 8), `bias[4H]` and `memory[H, 4H]` of the LSTM, its gates
            in, forget, cell, out, `outputs[H, 1 + m]` and `outputs_bias[1 + m]`.
        prediction_weight: c [1].
        num_predictions: m, logits of the head.

    Numerics: all steps' input products are one matrix product; the scan over T has one more.

    Sources: Oh et al. 2020, Discovering reinforcement learning algorithms, m = 30; the discount is
    theirs too. c = 0.5, the relus of phi, KL(y || y_hat) and the order of reset and step are those
    of Jackson et al. 2023 (GROOVE) as released (EmptyJackson/groove, models/lpg.py), which has a
    GRU, m = 8, and relus between it and its outputs, where nothing stands here. The lifetime inputs
    are those of Jackson et al. 2024.

    Example:
        >>> rule = lpg(jax.random.key(0), num_hidden=8, num_predictions=3)
        >>> rule.outputs, rule.facts.learned
        ({'prediction': (3,)}, ('weights',))
    """

    weights: dict[str, Array]
    prediction_weight: float = setting(0.5, "weight of the prediction's loss", low=0.0)
    num_predictions: int = setting(30, "logits of the prediction", low=1)
    timed: bool = setting(False, "let the rule see how far the life has come")

    facts = RuleFacts(raw_advantages=True, learned=("weights",))  # pi_hat is not standardised
    init = remember_nothing

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """The logits of the prediction."""
        return {_HEAD: (self.num_predictions,)}

    def targets(
        self, rule_state: tuple, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
    ) -> tuple[PolicyTargets, tuple]:
        """pi_hat `[T, ...]` as the advantage, log y_hat `[T, ..., m]` as the head's target."""
        features = self._features(outputs, trajectory, progress)
        ended = (trajectory.terminated >= 1) | trajectory.truncated
        weights = self.weights
        pushed = features @ weights["inputs"] + weights["bias"]  # [T, ..., 4H]
        width = weights["memory"].shape[0]
        nothing = jnp.zeros((*pushed.shape[1:-1], width), pushed.dtype)

        def step(memory: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple, Array]:
            pushed, ended = inputs
            hidden, cell = (jnp.where(ended[..., None], 0.0, part) for part in memory)
            gates = pushed + hidden @ weights["memory"]
            enter, forget, fresh, leave = jnp.split(gates, 4, axis=-1)
            cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(fresh)
            hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
            return (hidden, cell), hidden

        _, hidden = jax.lax.scan(step, (nothing, nothing), (pushed, ended), reverse=True)
        said = hidden @ weights["outputs"] + weights["outputs_bias"]
        targets = PolicyTargets(
            advantage=said[..., 0],
            returns=outputs.value,
            log_prob=outputs.log_prob,
            value=outputs.value,
            heads={_HEAD: jax.nn.log_softmax(said[..., 1:])},
        )
        return targets, rule_state

    def _features(
        self, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
    ) -> Array:
        """x `[T, ..., F]`."""
        weights = self.weights
        logits = jnp.stack([outputs.heads[_HEAD], outputs.next_heads[_HEAD]], axis=-2)
        units = jax.nn.relu(jax.nn.softmax(logits) @ weights["embed"] + weights["embed_bias"])
        embedded = units @ weights["embed_out"] + weights["embed_out_bias"]  # [T, ..., 2]
        has_next = trajectory.terminated < 1
        is_density = not isinstance(outputs.policy, FiniteLaw | None)
        columns = [
            trajectory.reward,
            trajectory.discount,
            trajectory.terminated,
            outputs.log_prob if is_density else jnp.exp(outputs.log_prob),
            embedded[..., 0],
            jnp.where(has_next, embedded[..., 1], 0.0),
        ]
        if self.timed:
            columns += [jnp.broadcast_to(x, columns[0].shape) for x in lifetime_features(progress)]
        dtype = embedded.dtype
        return jnp.stack([jnp.asarray(column, dtype) for column in columns], axis=-1)

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The loss `[]` of one step."""
        log_prediction = jax.nn.log_softmax(outputs.heads[_HEAD])
        gap = log_prediction - targets.heads[_HEAD]
        prediction_loss = jnp.sum(jnp.exp(log_prediction) * gap, axis=-1)
        return self.prediction_weight * prediction_loss - outputs.log_prob * targets.advantage


def lpg(
    key: Key,
    num_hidden: int = 64,
    num_predictions: int = 30,
    num_embedded: int = 16,
    timed: bool = False,
) -> LearnedPolicyGradient:
    """A learned policy gradient with random weights, to be learned by an outer loop.

    Args:
        key: of the weights.
        num_hidden: width of the LSTM; 256 by default in EmptyJackson/groove.
        num_predictions: logits of the prediction.
        num_embedded: width of the layer that makes one number of a prediction.
        timed: whether the rule sees how far the life has come.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> sorted(lpg(jax.random.key(0), num_hidden=8, num_predictions=3).weights)[5:7]
        ['inputs', 'memory']
    """
    if min(num_hidden, num_predictions, num_embedded) < 1:
        raise ValueError(
            f"num_hidden={num_hidden}, num_predictions={num_predictions} and "
            f"num_embedded={num_embedded} must all be at least 1."
        )
    weights = random_weights(
        key,
        embed=(num_predictions, num_embedded),
        embed_out=(num_embedded,),
        inputs=(8 if timed else 6, 4 * num_hidden),
        memory=(num_hidden, 4 * num_hidden),
        outputs=(num_hidden, 1 + num_predictions),
    )
    remembers = jnp.zeros((4, num_hidden)).at[1].set(1.0)  # the forget gate starts open
    weights["bias"] = remembers.reshape(-1)
    weights["embed_bias"] = jnp.zeros(num_embedded)
    weights["embed_out_bias"] = jnp.zeros(())
    weights["outputs_bias"] = jnp.zeros(1 + num_predictions)
    return LearnedPolicyGradient(weights, num_predictions=num_predictions, timed=timed)
