"""A comparison as data for other programs: one row a run as CSV and Parquet, the tables of scores for LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import tomli_w

from zoplat.core.errors import ZoplatError
from zoplat.report.pages import Rows
from zoplat.report.study.reading import Study

FORMATS = ("html", "md", "csv", "parquet", "tex", "jsonl", "jsonl.gz", "toml")
SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": "$-$",
}
"""Letters that LaTeX takes for something else."""


def run_rows(study: Study) -> list[dict[str, Any]]:
    """One row a run: what summary.json has, with peaks as columns of their own, and its settings as `setting.PATH`."""
    rows = []
    for method in study.methods:
        for run in method.runs:
            row: dict[str, Any] = {"label": method.label}
            for name, value in run.summary.to_json().items():
                if isinstance(value, dict):
                    row |= {f"{name}.{place}": size for place, size in value.items()}
                else:
                    row[name] = value
            row["run_dir"] = run.place
            rows.append(row | {f"setting.{path}": value for path, value in method.group.terms.items()})
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with a line of names; an empty cell for what is not known."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a Parquet file.

    Raises:
        ZoplatError: pyarrow is not installed.
    """
    try:
        from pyarrow import BufferOutputStream, Table, parquet
    except ImportError:
        raise ZoplatError("--format parquet needs a package that is not installed: pip install pyarrow") from None
    out = BufferOutputStream()
    parquet.write_table(Table.from_pylist(list(rows)), out)
    return bytes(out.getvalue())


def as_settings(study: Study) -> str:
    """The settings of a comparison, with which `zoplat compare --config` makes it again.

    Raises:
        ZoplatError: they are not on record.
    """
    if not study.settings:
        raise ZoplatError("--format toml: the settings of this comparison are not on record; it has no study.toml.")
    return str(tomli_w.dumps(study.settings))


def as_latex(tables: Sequence[tuple[str, Rows]]) -> str:
    """(caption, table) pairs for LaTeX with the package booktabs."""
    text = "% Needs \\usepackage{booktabs}.\n"
    for caption, rows in tables:
        columns = "l" * rows.words + "r" * (len(rows.head) - rows.words)
        body = "\n".join(f"    {_line(row)}" for row in rows.body)
        text += (
            f"\\begin{{table}}\n  \\centering\n  \\caption{{{_escaped(caption)}}}\n  \\begin{{tabular}}{{{columns}}}\n"
            f"    \\toprule\n    {_line(rows.head)}\n    \\midrule\n{body}\n    \\bottomrule\n"
            "  \\end{tabular}\n\\end{table}\n"
        )
    return text


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in " ".join(text.split()))
