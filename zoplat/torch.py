"""`zoplat.torch.ZerothOrder`: the methods of zoplat as an optimizer of PyTorch, for a training loop of your own.

A door to the room of the devices where it lives; importing this module imports no framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoplat_devices.optimizer.loops import LightningForwardOnly, TrainerForwardOnly
    from zoplat_devices.optimizer.zeroth_order import ZerothOrder

__all__ = ["LightningForwardOnly", "TrainerForwardOnly", "ZerothOrder"]
_WHERE = {
    "LightningForwardOnly": "zoplat_devices.optimizer.loops",
    "TrainerForwardOnly": "zoplat_devices.optimizer.loops",
    "ZerothOrder": "zoplat_devices.optimizer.zeroth_order",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module 'zoplat.torch' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
