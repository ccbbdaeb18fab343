"""Experiment trackers that runs are sent to with `--report-to`: one file each, their libraries imported when used."""
