from jaxrl.envs.bandits import NormalPayout as NormalPayout
from jaxrl.envs.chains import (
    chain as chain,
    cycle as cycle,
    deep_sea as deep_sea,
    garnet as garnet,
    riverswim as riverswim,
)
from jaxrl.envs.checker import check as check
from jaxrl.envs.constrained import ConstrainedTabularEnv as ConstrainedTabularEnv
from jaxrl.envs.finance import (
    OptionTerms as OptionTerms,
    american_option as american_option,
    gambler as gambler,
)
from jaxrl.envs.grid_levels import (
    DugWalls as DugWalls,
    GridLevel as GridLevel,
    ScatteredWalls as ScatteredWalls,
)
from jaxrl.envs.gridworlds import (
    cliff_walking as cliff_walking,
    frozen_lake as frozen_lake,
    windy_cliff as windy_cliff,
    windy_gridworld as windy_gridworld,
    windy_walk as windy_walk,
)
from jaxrl.envs.mazes import (
    four_rooms as four_rooms,
    random_maze as random_maze,
)
from jaxrl.envs.operations import (
    access_control_queue as access_control_queue,
    inventory as inventory,
    machine_replacement as machine_replacement,
)
from jaxrl.envs.regimes import (
    Regime as Regime,
    regime_option as regime_option,
    regime_portfolio as regime_portfolio,
)
from jaxrl.envs.registry import (
    facts_of as facts_of,
    make as make,
    names as names,
    register as register,
)
from jaxrl.envs.tables import (
    gymnasium_mdp as gymnasium_mdp,
    semi_markov_mdp as semi_markov_mdp,
)
from jaxrl.envs.tabular import TabularEnv as TabularEnv
from jaxrl.envs.two_colours import TwoColours as TwoColours
from jaxrl.envs.walled import WalledGrid as WalledGrid
