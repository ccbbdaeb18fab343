"""Methods and basic parts that ship with zoplat, one file each, reached only through entry points."""
