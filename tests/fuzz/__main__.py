"""`python -m tests.fuzz TARGET --minutes 10`: fuzzes one reader, guided by the branches that it takes (atheris).

It begins with the files in tests/fuzz/seeds/TARGET, to which findings are added when they are corrected. What reaches
more branches is kept in a corpus, for the next time. A finding is written beside it; the status is then not 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris
import click

SEEDS = Path(__file__).parent / "seeds"
LIMITS = ("-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1")

with atheris.instrument_imports(include=["zoplat", "zoplat_devices", "tomllib", "json", "csv"]):
    from tests.fuzz.targets import TARGETS, suppressed


@click.command(help=__doc__)
@click.argument("target", type=click.Choice(sorted(TARGETS)))
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--corpus", type=click.Path(path_type=Path), default=Path("fuzz"), show_default=True, help="A folder.")
def fuzz(target: str, minutes: float, corpus: Path) -> None:
    own, seeds = corpus / target, SEEDS / target
    own.mkdir(parents=True, exist_ok=True)
    limits = (*LIMITS, f"-max_total_time={60 * minutes:.0f}", f"-artifact_prefix={corpus}/{target}-")
    atheris.Setup([sys.argv[0], *limits, str(own), str(seeds)], lambda data: suppressed(TARGETS[target], data))
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz()
