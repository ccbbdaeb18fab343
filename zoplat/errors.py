"""The errors that functions of zoplat raise, all of them `ZoplatError`s but for an interruption.

`exit_status` of an error is that of the command: 2 for a request that can't work, 1 for a run that failed.
"""

from zoplat.core.errors import Interrupted, NonFinite, RunFailed, SkipStep, ZoplatError
from zoplat.core.fields import FieldError

__all__ = ["FieldError", "Interrupted", "NonFinite", "RunFailed", "SkipStep", "ZoplatError"]
