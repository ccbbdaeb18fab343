"""What a command may do only when its user says so: run a checkpoint's Python, run a program of a file, send rows away.

A permission is no setting: it is given on the command line or in the environment, and never stored with a run, so that
nobody can give it for somebody else.
"""

import os

COMMANDS = "commands"
"""Programs and functions that a run directory, a settings file or another user's task file names."""
REMOTE_CODE = "remote-code"
"""Python that comes with a checkpoint."""
SERVERS = "servers"
"""Sending rows and adapters to an inference server on another machine."""
VARIABLE = "ZOPLAT_ALLOW"
"""An environment variable with permissions, separated by commas."""
_granted: set[str] = set()


def grant(permission: str) -> None:
    """Give a permission to this process."""
    _granted.add(permission)


def withdraw(permission: str) -> None:
    """Take a permission back."""
    _granted.discard(permission)


def is_granted(permission: str) -> bool:
    """Whether the user gave a permission."""
    return permission in granted()


def granted() -> set[str]:
    """All permissions that the user gave, here or in the environment."""
    named = os.environ.get(VARIABLE, "").replace(" ", "").split(",")
    return _granted.union(name for name in named if name)
