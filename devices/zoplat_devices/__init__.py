"""Devices that ship with zoplat. A runtime is imported when its device is opened, not before."""
