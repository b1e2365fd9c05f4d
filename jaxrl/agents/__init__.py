"""Learners: presets by name, the agents behind them, and the parts they are made of.

| file | what stands there |
|---|---|
| `presets` | every named agent, the only list of classes |
| `actor_critic`, `parallel_q` | learners on fresh rollouts; `minibatches` is their loop |
| `q_network`, `critic_agent` | learners from replay, of discrete and of box actions |
| `chain` | what learners from replay are made of besides an operator: the contract of parts |
| `value_parts`, `channels`, `stock` | parts: bonuses, shifts, average reward, channels, stocks |
| `variance_weights` | a part: weights of errors |
| `actors`, `critics`, `action_box` | who climbs critics, how several are one; action units |
| `successors`, `generative`, `ensemble`, `dual` | where the outcomes of a backup come from |
| `experience`, `iterated` | replay and lagged copies; a chain of networks |
| `action_values` | networks of heads, epsilon-greedy |
| `optimiser` | how gradients become steps, by optax's transformations too |
| `normalised`, `readers`, `checks` | an agent round another; what others may ask; what is refused |
"""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
