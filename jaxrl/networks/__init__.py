"""Networks and policy distributions, in flax.linen.

`network=` of an agent takes `NetworkSettings`, any module of flax and any pair of functions
`(init, apply)`: `given` says what these are fed and what they give. `NatureTorso` and `ResNetTorso`
are two such modules, for images.
"""

from jaxrl.core.doors import door

__getattr__, __dir__ = door(__file__, __name__)
