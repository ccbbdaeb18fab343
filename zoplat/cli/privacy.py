"""zoplat privacy: the (ε, δ) of a run, or the noise that an ε takes."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoplat.cli.options import OUTPUT, echo_json
from zoplat.cli.terminal import echo
from zoplat.core.errors import ZoplatError

if TYPE_CHECKING:
    from zoplat.training.privacy import Privacy

PLANNED = ("steps", "rows", "batch_size")
"""What a run that is not made yet is described by."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--delta", type=float, default=1e-5, show_default=True, help="δ; well below 1/rows.")
@click.option("--epsilon", type=float, help="Find the least noise with which ε is at most this.")
@click.option("--noise", type=float, help="σ of a run that is not made yet; field `noise` of dp.")
@click.option("--steps", type=int, help="Its steps.")
@click.option("--rows", type=int, help="Its training rows.")
@click.option("--batch-size", type=int, help="Rows of a batch.")
@OUTPUT
def privacy(
    run: Path | None, delta: float, epsilon: float | None, noise: float | None, as_json: bool, **plan: Any
) -> None:
    """Say how private the weights of RUN are: its ε at a δ, for each training row.

    Without RUN, that of a run that is not made yet (--noise), or the noise that it needs (--epsilon).
    """
    from zoplat.training import privacy as accounts
    from zoplat.training.directory import RunDirectory

    given = [name for name in PLANNED if plan[name] is not None]
    if run is not None:
        if given or epsilon is not None or noise is not None:
            raise ZoplatError("RUN knows its steps, rows and noise. Give RUN alone, with --delta, or no RUN.")
        found = accounts.privacy_of(RunDirectory.existing(run), delta)
    elif len(given) < len(PLANNED) or (epsilon is None) == (noise is None):
        raise ZoplatError("Give RUN; or --steps, --rows and --batch-size, with either --noise or --epsilon.")
    elif epsilon is not None:
        found = accounts.privacy_for(epsilon, delta=delta, **plan)
    else:
        found = accounts.privacy(float(noise or 0.0), delta=delta, **plan)
    if as_json:
        echo_json({"status": "done", **vars(found)})
    elif math.isinf(found.epsilon):
        echo(f"σ = 0: no noise, so none of the {found.rows} training rows is hidden")
    else:
        echo("\n".join(_lines(found, is_planned=epsilon is not None)))


def _lines(found: "Privacy", is_planned: bool) -> Iterator[str]:
    """What is printed; where noise was found, with the command that takes it."""
    noise, rows, size, steps = found.noise, found.rows, found.batch_size, found.steps
    yield f"ε = {found.epsilon:.4g} at δ = {found.delta:g}, for each of the {rows} training rows; σ = {noise:g}"
    yield f"{steps} steps of {size} rows: a row has a part in {found.uses} of them at most"
    if is_planned:
        yield f"zoplat run --estimator dp -o noise={noise:g} --batch-size {size} --steps {steps}"
    if found.delta * rows >= 1:
        yield f"δ is no less than 1/{rows}, so some row may be shown whole. Use a smaller --delta."
