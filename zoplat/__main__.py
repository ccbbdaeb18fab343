"""python -m zoplat: the command line."""

from zoplat.cli import main

main(prog_name="zoplat")
