"""Devices that ship with zoplat. Runtimes are imported when a device opens, not before."""
