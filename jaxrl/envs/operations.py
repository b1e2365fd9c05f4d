"""Problems of operations research: stock, repair and admission."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxrl.core import Struct, TabularMDP, check_settings, outcome_mdp, setting, tabular_mdp
from jaxrl.core.arguments import check_prob, check_whole


class InventoryCosts(Struct):
    """What stock costs and earns; the defaults are Puterman's."""

    price: float = setting(8.0, "revenue of a unit sold", unit="return per unit")
    order_cost: float = setting(4.0, "cost of placing an order", unit="return")
    unit_cost: float = setting(2.0, "cost of a unit ordered", unit="return per unit")
    holding_cost: float = setting(1.0, "cost of a unit stocked", unit="return per unit and step")


def inventory(
    capacity: int = 3,
    demand: Sequence[float] = (0.25, 0.5, 0.25),
    costs: InventoryCosts = InventoryCosts(),
    discount: float = 0.99,
) -> TabularMDP:
    """How much to order each month, when demand is random and unmet demand is lost.

        u = s + a,   s' = max(u - D, 0)
        reward = price min(D, u) - [a > 0] order_cost - unit_cost a - holding_cost u

    State s is the stock at the start of the month, action a the order, legal up to
    `capacity - s`. Outcome k is demand D = k, so that the reward stays tied to the successor.

    With the defaults the expected rewards r(s, a) are those of Puterman: 0 -1 -2 -5, 5 0 -3,
    6 -1 and 5; over three months at discount 1 the optimal values are 67/16, 129/16, 194/16 and
    227/16, by ordering 3 at stock 0 in the first month, 2 at stock 0 in the second, nothing else.

    Args:
        capacity: most units in stock, at least 1.
        demand: probability of a demand of 0, 1, ... units [per month].
        costs: what stock costs and earns.
        discount: gamma in [0, 1] [per month].

    Raises:
        ValueError: a size is out of range, or the demand is no law.

    Sources: Puterman (1994), "Markov Decision Processes", sections 3.2 and 4.6.1.

    Example:
        >>> [float(r) for r in inventory().dense()[1][0]]
        [0.0, -1.0, -2.0, -5.0]
    """
    chance = np.asarray(demand, np.float64)
    capacity = check_whole("capacity", capacity)
    if chance.ndim != 1 or not (np.all(chance >= 0) and abs(chance.sum() - 1.0) <= 1e-6):
        raise ValueError(f"demand must be a law [D] of the demands 0, 1, ...; got {demand}.")
    check_settings(costs)
    stock, order = np.arange(capacity + 1)[:, None, None], np.arange(capacity + 1)[:, None]
    wanted = np.arange(chance.size)
    on_hand = np.minimum(stock + order, capacity)
    bill = costs.order_cost * (order > 0) + costs.unit_cost * order
    reward = costs.price * np.minimum(wanted, on_hand) - bill - costs.holding_cost * on_hand
    return outcome_mdp(
        np.broadcast_to(chance, reward.shape),
        np.maximum(on_hand - wanted, 0),
        reward,
        discount,
        mask=(stock + order <= capacity)[..., 0],
    )


def machine_replacement(num_conditions: int = 8, discount: float = 0.8) -> TabularMDP:
    """Repair a wearing machine, not knowing how long the repair will take.

    States: 0 is R1, a common repair; 1 is R2, a long one; 2, ..., num_conditions + 1 are working
    conditions W1 (as new) to WN (broken). Action 0 does nothing, action 1 repairs.

    | from | do nothing | repair |
    |---|---|---|
    | W1 ... W(N-1) | 0.8 one worse, 0.2 same | 0.6 R1, 0.1 R2, 0.3 one worse |
    | WN | same | 0.6 R1, 0.1 R2, 0.3 same |
    | R1 | 0.8 W1, 0.2 same | same |
    | R2 | same | 0.6 R1, 0.4 same |

    A step pays for the state that it leads to: -2 in R1, -10 in R2, -20 in WN, else 0. Starts in
    W1; never ends. The nominal model is a benchmark for robust planning: the law of the repair is
    what one does not know.

    Args:
        num_conditions: N, working conditions with the broken one, at least 2.
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: fewer than two conditions.

    Sources: Delage and Mannor (2010), "Percentile optimization for Markov decision processes with
    parameter uncertainty", Operations Research 58, the machine replacement problem. The numbers
    are as public re-implementations give them; those differ on whether a repair is paid for on
    entering or on staying, where we chose one rule. We did not check them against the paper.
    """
    num_states = check_whole("num_conditions", num_conditions, 2) + 2
    law = np.eye(num_states)  # of being in one state for sure
    common, long, working = law[0], law[1], law[2:]
    worse = law[np.minimum(np.arange(3, num_states + 1), num_states - 1)]
    repair = [[0.8 * working[0] + 0.2 * common, common], [long, 0.6 * common + 0.4 * long]]
    wear = [0.8 * worse + 0.2 * working, 0.6 * common + 0.1 * long + 0.3 * worse]
    table = np.concatenate([repair, np.stack(wear, axis=1)])
    paid = np.zeros(num_states)
    paid[[0, 1, -1]] = -2.0, -10.0, -20.0
    return tabular_mdp(
        table, np.broadcast_to(paid, table.shape), discount, initial=np.arange(num_states) == 2
    )


def access_control_queue(
    num_servers: int = 10,
    free_prob: float = 0.06,
    priorities: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    discount: float = 0.99,
) -> TabularMDP:
    """Serve the customer at the head of the queue, or keep the server for a better one.

        n' = n - a + Binomial(num_servers - n + a, free_prob),   next customer uniform
        reward = a priorities[c]

    State `n * num_priorities + c` holds n free servers and a customer of class c; action 0
    rejects, action 1 accepts. With no server free, accepting does as rejecting: both are legal.
    Starts with every server free; never ends: meant for the average reward. The optimum turns away
    the cheaper classes when few servers are free, and never the dearest.

    Args:
        num_servers: at least 1.
        free_prob: probability that a busy server falls free, in [0, 1] [per step].
        priorities: what a customer of each class pays [return].
        discount: gamma in [0, 1] [per step].

    Raises:
        ValueError: a number is out of range.

    Sources: Sutton and Barto (2018), "Reinforcement Learning: An Introduction", example 10.2. That
    a server just taken may fall free in the same step follows public implementations.
    """
    if num_servers < 1 or not len(priorities):
        raise ValueError("access_control_queue needs at least one server and one priority.")
    check_prob("free_prob", free_prob)
    num_classes = len(priorities)
    free_after = np.zeros((num_servers + 1, num_servers + 1))  # [free once decided, free next]
    for free in range(num_servers + 1):
        busy = num_servers - free
        for freed in range(busy + 1):
            chance = free_prob**freed * (1 - free_prob) ** (busy - freed)
            free_after[free, free + freed] = math.comb(busy, freed) * chance
    free, accepts = np.arange(num_servers + 1)[:, None], np.arange(2)
    serves = np.minimum(accepts, free)  # [free servers, action]
    rows = free_after[free - serves]  # [free servers, action, free servers next]
    table = np.repeat(np.repeat(rows, num_classes, axis=0), num_classes, axis=-1) / num_classes
    reward = serves[:, None, :] * np.asarray(priorities, np.float64)[:, None]
    num_states = table.shape[0]
    first = np.arange(num_states) >= num_servers * num_classes
    return tabular_mdp(table, reward.reshape(num_states, 2), discount, initial=first / num_classes)
