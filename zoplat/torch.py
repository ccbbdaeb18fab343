"""For modules of PyTorch of any kind: `ZerothOrder` in a training loop of your own, `ModuleDevice` for `zoplat run`.

A door to the rooms of the devices where they live; importing this module imports no framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoplat_devices.optimizer.loops import LightningForwardOnly, TrainerForwardOnly
    from zoplat_devices.optimizer.zeroth_order import ZerothOrder
    from zoplat_devices.pytorch.modules import ModuleDevice

__all__ = ["LightningForwardOnly", "ModuleDevice", "TrainerForwardOnly", "ZerothOrder"]
_WHERE = {
    "LightningForwardOnly": "zoplat_devices.optimizer.loops",
    "ModuleDevice": "zoplat_devices.pytorch.modules",
    "TrainerForwardOnly": "zoplat_devices.optimizer.loops",
    "ZerothOrder": "zoplat_devices.optimizer.zeroth_order",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'zoplat.torch' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
