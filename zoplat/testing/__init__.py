"""For plugin authors: contracts to inherit in three lines, and small problems to run an algorithm on.

from zoplat.testing import SamplerContract
from zoplat_uniform import Uniform

class TestUniform(SamplerContract):
    sampler = Uniform()

`zoplat check` tests the same properties without pytest.
"""

from zoplat.testing.devices import DeviceContract
from zoplat.testing.estimators import EstimatorContract
from zoplat.testing.probes import ProbeContract
from zoplat.testing.problems import cubic, linear, quadratic, two_layers
from zoplat.testing.rules import StepRuleContract
from zoplat.testing.runs import Plain, train
from zoplat.testing.samplers import SamplerContract
from zoplat.testing.tasks import TaskContract
from zoplat.testing.toys import Toy

__all__ = [
    "DeviceContract",
    "EstimatorContract",
    "Plain",
    "ProbeContract",
    "SamplerContract",
    "StepRuleContract",
    "TaskContract",
    "Toy",
    "cubic",
    "linear",
    "quadratic",
    "train",
    "two_layers",
]
