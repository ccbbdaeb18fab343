"""Methods of all kinds on arrays, small enough for tests of where arrays lie."""

from typing import Any

from zoplat import Estimator
from zoplat_plugins.adam import Adam
from zoplat_plugins.adamezo import AdaMeZO
from zoplat_plugins.conmezo import ConMeZO
from zoplat_plugins.constant import Constant
from zoplat_plugins.dizo import DiZO
from zoplat_plugins.hizoo import HiZOO
from zoplat_plugins.lozo import LowRank
from zoplat_plugins.lozo_m import LowRankMomentum
from zoplat_plugins.mezo import MeZO
from zoplat_plugins.sparse_mezo import SparseMeZO

LR = Constant(lr=1e-2)
WITH_STATE: dict[str, Estimator[Any]] = {
    "adam": MeZO(rule=Adam(schedule=LR)),
    "conmezo": ConMeZO(rule=LR),
    "dizo": DiZO(inner=MeZO(rule=LR), every=2, rounds=2, targets="^w"),
    "hizoo": HiZOO(rule=LR),
    "lozo-m": MeZO(rule=LowRankMomentum(schedule=LR), sampler=LowRank(rank=2)),
    "sparse-mezo": SparseMeZO(rule=LR),
}
"""Methods that keep arrays between steps."""
WITHOUT_STATE: dict[str, Estimator[Any]] = {
    "adamezo": MeZO(rule=AdaMeZO(schedule=LR, window=3)),
    "lozo": MeZO(rule=LR, sampler=LowRank(rank=2)),
    "mezo": MeZO(rule=LR),
}
METHODS = WITH_STATE | WITHOUT_STATE
"""Those, and some that keep none."""
