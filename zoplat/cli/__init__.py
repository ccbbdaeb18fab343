"""The command line: one file per command, which parses, calls the engine and prints."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from zoplat import __version__
from zoplat.core.errors import Interrupted

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What interrupts a command: the first one ends it in order, a second one at once."""


def listen_to_signals() -> None:
    """From now on the first signal raises KeyboardInterrupt, and a second one ends the process, also with 130."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        if received:
            os._exit(INTERRUPTED)
        received.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell sets it for jobs in the background
                signal.signal(number, interrupt)


def ignore_signals() -> None:
    """For the last moments of the process, in which Python handles signals no more."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Commands(click.Group):
    """Commands whose errors are printed as one message; the exit status says whose fault they are.

    Args:
        later: name → (module and function, what it does in one line) of commands that are imported when they are asked
            for, so that the help of the program is quick.
    """

    def __init__(self, *args: Any, later: Mapping[str, tuple[str, str]] | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.later = later or {}

    def invoke(self, context: click.Context) -> Any:
        """Run the command; an exception is printed without its traceback unless --debug."""
        listen_to_signals()
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as problem:
            if context.params.get("debug"):
                raise
            from zoplat.cli.mistakes import explained, reported  # after the help, which needs to be quick

            known = explained(problem)
            click.echo(f"Error: {known or reported(problem)}", err=True)
            sys.exit(known.exit_status if known else 1)
        except Interrupted as stop:
            atexit.register(ignore_signals)
            click.echo(f"Interrupted; {stop}", err=True)
            sys.exit(INTERRUPTED)
        except KeyboardInterrupt:
            atexit.register(ignore_signals)
            click.echo("Interrupted.", err=True)
            sys.exit(INTERRUPTED)

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*self.commands, *self.later})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in self.later and name not in self.commands:
            module, _, function = self.later[name][0].partition(":")
            self.add_command(getattr(import_module(module), function), name)
        return super().get_command(context, name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self._sentence(context, name)) for name in self.list_commands(context)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _sentence(self, context: click.Context, name: str) -> str:
        """What a command does; it is imported only where nobody wrote that down."""
        if name in self.later:
            return self.later[name][1]
        command = self.get_command(context, name)
        return command.get_short_help_str(limit=100) if command else ""


COMMANDS = {
    "check": ("zoplat.cli.check:check", "Test the parts of a plugin for the properties of their kinds."),
    "compare": ("zoplat.cli.compare:compare", "One table of runs, or of a matrix of methods, tasks and seeds."),
    "diff": ("zoplat.cli.diff:diff", "Show what differs between two runs, and the first step that does."),
    "doctor": ("zoplat.cli.doctor:doctor", "Show versions, devices, and plugins that don't load."),
    "eval": ("zoplat.cli.eval:evaluate", "Score a model without training it, or the result of a run."),
    "export": ("zoplat.cli.export:export", "Write the result of a run: an adapter for peft, or a checkpoint."),
    "list": ("zoplat.cli.listing:list_", "List estimators and other parts, or runs."),
    "new-plugin": (
        "zoplat.cli.new_plugin:new_plugin",
        "Write a plugin package that passes its tests and its check.",
    ),
    "pack": ("zoplat.cli.pack:pack", "Write a bundle, to train on a board without torch."),
    "plan": (
        "zoplat.cli.plan:plan",
        "Say before a run what memory and time it takes, and what fits; no weights are read.",
    ),
    "poc": ("zoplat.cli.poc:poc", "Go or no-go for a model, data and a device, by short runs, on one page."),
    "privacy": (
        "zoplat.cli.privacy:privacy",
        "Say how private the weights of a run are, or which noise makes them so.",
    ),
    "profile": ("zoplat.cli.profile:profile", "Make a few steps and show where time and memory go."),
    "repair": ("zoplat.cli.repair:repair", "Cut a damaged journal back to its last whole line, and say what was lost."),
    "join": ("zoplat.cli.join:join", "Compute points of a run on another machine, until it ends."),
    "replay": ("zoplat.cli.replay:replay", "Rebuild the final weights of a run from its journal."),
    "report": ("zoplat.cli.report:report", "Write a report of a run: a page, and its figures as text."),
    "run": ("zoplat.cli.run:run", "Fine-tune a model by forward passes, and score it before and after."),
    "show": ("zoplat.cli.show:show", "Show a part: its algorithm box, fields with defaults, and cost."),
}
"""Name → where the command is, and what it does in one line."""
EXAMPLES = """\b
Examples:
  zoplat run --estimator lozo   a packaged model and task; minutes, no network
  zoplat list estimators        all methods
  zoplat show lozo              its algorithm, fields, defaults and cost"""


@click.group(
    cls=Commands,
    later=COMMANDS,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="zoplat")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Fine-tune language models with forward passes only."""
    if hasattr(sys.stdout, "reconfigure"):  # a path may have bytes that the terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
