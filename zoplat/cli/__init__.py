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
from zoplat.cli.mistakes import explained, reported
from zoplat.cli.pack import pack
from zoplat.cli.profile import profile
from zoplat.cli.replay import replay
from zoplat.cli.report import report
from zoplat.cli.run import run
from zoplat.cli.show import show

INTERRUPTED = 130


class Commands(click.Group):
    """Commands whose errors are printed as one message; the exit status says whose fault they are."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command; an exception is printed without its traceback unless --debug."""
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as problem:
            if context.params.get("debug"):
                raise
            known = explained(problem)
            click.echo(f"Error: {known or reported(problem)}", err=True)
            sys.exit(known.exit_status if known else 1)
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
    if hasattr(sys.stdout, "reconfigure"):  # a path may have bytes that the terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")


for command in (run, evaluate, compare, profile, replay, export, pack, report, list_, show, check, doctor):
    main.add_command(command)
