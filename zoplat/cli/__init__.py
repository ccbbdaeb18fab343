"""The command line: one file per command, which parses, calls the engine and prints."""

import signal
import sys
from typing import Any

import click

from zoplat import __version__
from zoplat.cli.check import check
from zoplat.cli.compare import compare
from zoplat.cli.doctor import doctor
from zoplat.cli.eval import evaluate
from zoplat.cli.export import export
from zoplat.cli.listing import list_
from zoplat.cli.new_plugin import new_plugin
from zoplat.cli.pack import pack
from zoplat.cli.profile import profile
from zoplat.cli.replay import replay
from zoplat.cli.report import report
from zoplat.cli.run import run
from zoplat.cli.show import show
from zoplat.core.errors import ZoplatError

INTERRUPTED = 130


class Commands(click.Group):
    """Commands whose errors are printed as one message; the exit status says whose fault they are."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; a ZoplatError is printed without its traceback unless --debug."""
        try:
            return super().invoke(context)
        except ZoplatError as problem:
            if context.params.get("debug"):
                raise
            click.echo(f"Error: {problem}", err=True)
            sys.exit(problem.exit_status)
        except KeyboardInterrupt:
            click.echo("Interrupted; what was done is saved. Go on with --resume --out RUN.", err=True)
            sys.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="zoplat")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    r"""Fine-tune language models with forward passes only.

    \b
    zoplat run --estimator lozo       a packaged small model and task; minutes on a laptop, no network
    zoplat list estimators            all methods
    zoplat show lozo                  its algorithm, fields and defaults
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


for command in (run, evaluate, compare, profile, replay, export, pack, report, list_, show, check, new_plugin, doctor):
    main.add_command(command)
