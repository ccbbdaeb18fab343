"""For plugin authors: contracts to inherit in three lines, and small problems to try an algorithm on.

from zoplat.testing import SamplerContract
from zoplat_uniform import Uniform

class TestUniform(SamplerContract):
    sampler = Uniform()
"""

from zoplat.testing.contracts import EstimatorContract, SamplerContract, StepRuleContract
from zoplat.testing.toys import Plain, Toy, cubic, linear, quadratic, train, two_layers

__all__ = [
    "EstimatorContract",
    "Plain",
    "SamplerContract",
    "StepRuleContract",
    "Toy",
    "cubic",
    "linear",
    "quadratic",
    "train",
    "two_layers",
]
