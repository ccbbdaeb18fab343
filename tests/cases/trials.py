"""Trials: a command is run on something damaged, within limits, and how it ends is judged."""

import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import click.testing

SECONDS = 5.0
"""Of the processor that a trial may take; six times as many by the clock, for machines that have other work."""
GROWTH = 2 << 30
"""Bytes by which a trial may raise the peak memory of the process: an empty configuration is that of a large model,
whose weights are then found to have other shapes."""
SPACE = 4 << 30
"""Bytes of addresses that the process may add while it makes a trial, so that a failing one harms nobody else."""
Trial = tuple[str, click.Command, list[Any]]
"""What was damaged, and the command that is run on it."""


class Endless(BaseException):
    """A trial that took too long."""


def stopwatch() -> Callable[[], bool]:
    """Whether more time has passed than a trial may take, from now on."""
    began, busy = time.monotonic(), time.process_time()
    return lambda: time.process_time() - busy > SECONDS or time.monotonic() - began > 6 * SECONDS


@contextmanager
def limits() -> Iterator[None]:
    """A limit on the time and the addresses of what is run inside; zoplat has the timer of the system for itself."""

    def end(*_: Any) -> None:
        raise Endless

    def watch(main_thread: int) -> None:
        while not ended.wait(0.2):
            if is_late():  # again and again, where code without a caller drops the first
                signal.pthread_kill(main_thread, signal.SIGALRM)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    is_late = stopwatch()
    ended, handlers = threading.Event(), {number: signal.getsignal(number) for number in numbers}
    space = resource.getrlimit(resource.RLIMIT_AS)
    watcher = threading.Thread(target=watch, args=(threading.get_ident(),))
    signal.signal(signal.SIGALRM, end)
    resource.setrlimit(resource.RLIMIT_AS, (addresses() + SPACE, space[1]))
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        resource.setrlimit(resource.RLIMIT_AS, space)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def addresses() -> int:
    """Bytes of addresses that this process has; 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[0]) * resource.getpagesize() if path.exists() else 0


def peak() -> int:
    """Peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fault(command: click.Command, arguments: list[Any]) -> str:
    """What is wrong with how a command ended; empty where nothing is."""
    is_late, before = stopwatch(), peak()
    try:
        with limits():
            done = click.testing.CliRunner().invoke(command, [str(argument) for argument in arguments])
    except Endless:
        if any(Path.cwd().rglob("journal.jsonl")) and "--resume" not in arguments:
            return ""  # it trains, for as long as the settings say
        return f"it took more than {SECONDS:.0f} s"
    if is_late():
        return f"it took more than {SECONDS:.0f} s, and heard no signal"
    if peak() - before > GROWTH:
        return f"it took {(peak() - before) >> 20} MiB"
    unexpected = re.search(r"an unexpected \w+(:|$).*", done.output) or re.search("Traceback.*", done.output)
    if unexpected:
        return unexpected[0]
    if not isinstance(done.exception, SystemExit | None):
        return repr(done.exception)
    return "" if done.exit_code in (0, 1, 2, 130) else f"exit status {done.exit_code}: {done.output[-300:]}"


def make_trials(group: Callable[[random.Random], Trial], numbers: range) -> None:
    """Make the trials of these numbers; fails with the first few that did not end as they should."""
    alone = os.environ.get("ZOPLAT_MUTATION")
    here, faults = Path.cwd(), []
    for number in [int(alone)] if alone else numbers:
        folder = here / f"trial-{number}"
        folder.mkdir()
        os.chdir(folder)
        try:
            what, command, arguments = group(random.Random(number))
            if wrong := fault(command, arguments):
                typed = " ".join(map(str, arguments))[:300]
                faults.append(f"{number}: {what[:300]}\n    {command.name or 'zoplat'} {typed}\n    {wrong}")
        finally:
            os.chdir(here)
            shutil.rmtree(folder)
        if len(faults) == int(os.environ.get("ZOPLAT_FAULTS", 5)):
            break
    assert not faults, f"{len(faults)} trials failed; ZOPLAT_MUTATION=NUMBER makes one alone:\n" + "\n".join(faults)
