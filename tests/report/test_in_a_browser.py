"""Reports in headless Chromium: they open without a console message, fit a telephone, follow dark mode, and sort.

What is measured is written into the page by a script of the test, and read from what Chromium prints of the page.
"""

import base64
import html
import json
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from .conftest import make_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
DARK = "--blink-settings=preferredColorScheme=0"
PROBE = """
const shown = (table) => [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
const ordered = (rows, place) => rows.every((row, i) => !i || rows[i - 1][place].localeCompare(row[place]) <= 0);
const found = {width: innerWidth, scroll: document.scrollingElement.scrollWidth, wide: [], tables: []};
found.paper = getComputedStyle(document.body).backgroundColor;
for (const element of document.querySelectorAll("main *")) {
  const box = element.getBoundingClientRect();
  const isOut = box.width && box.right > innerWidth + 1;
  if (isOut && !element.closest("svg, .wide-table")) found.wide.push(element.outerHTML);
}
for (const box of document.querySelectorAll(".wide-table"))
  if (box.scrollWidth > box.clientWidth + 1) found.wide.push(box.textContent);
found.figures = [...document.querySelectorAll("figure")].map(
  (figure) => [...figure.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect().width > 0));
for (const table of document.querySelectorAll("table.rows")) {
  const before = shown(table), sorted = [];
  for (const heading of table.tHead.rows[0].cells) {
    const button = heading.querySelector("button");
    if (!button) continue;
    button.click();
    const first = shown(table), one = heading.getAttribute("aria-sort");
    button.click();
    const second = shown(table), other = heading.getAttribute("aria-sort"), place = heading.cellIndex;
    const isOrdered = [ordered(first, place), ordered([...second].reverse(), place)];
    sorted.push({isNumber: heading.className === "number", first, one, second, other, isOrdered});
  }
  found.tables.push({before, sorted});
}
parent.postMessage(JSON.stringify(found), "*");
"""
FRAME = """<!doctype html><iframe src="probed.html" width="{width}" height="900" style="border: 0"></iframe><pre></pre>
<script>addEventListener("message", (event) => document.querySelector("pre").textContent = event.data);</script>
"""
"""A page as wide as a telephone: Chromium's own windows are not as narrow."""


def chromium(page: Path | str, *flags: str) -> tuple[str, list[str]]:
    """What Chromium prints of a page, a file or an address, and its console messages."""
    address = page.as_uri() if isinstance(page, Path) else page
    words = [
        CHROMIUM or "",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
    ]
    done = subprocess.run(
        [*words, "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom", *flags, address],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measured(page: Path, folder: Path, width: int = 1200, *flags: str) -> dict[str, Any]:
    """What the probe finds on a page of some width, which is allowed to run it."""
    digest = base64.b64encode(sha256(PROBE.encode()).digest()).decode()
    text = page.read_text().replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    probed = folder / "probed.html"
    probed.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    (frame := folder / "frame.html").write_text(FRAME.format(width=width))
    printed, console = chromium(frame, "--window-size=1400,1000", *flags)
    assert console == []
    match = re.search(r"<pre>(.+?)</pre>", printed, re.DOTALL)
    assert match, printed[-2000:]
    return dict(json.loads(html.unescape(match.group(1))))


@pytest.fixture(scope="module")
def pages(study: Path, page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of the comparison, and that of one of its runs."""
    from zoplat.report.report import write

    [run] = write([study / "sst2" / "mezo-0"], tmp_path_factory.mktemp("run") / "run.html")
    return {"comparison": page, "run": run}


@pytest.mark.parametrize("name", ["comparison", "run"])
def test_a_page_opens_without_a_console_message(name: str, pages: dict[str, Path]) -> None:
    printed, console = chromium(pages[name])
    assert console == []
    assert "<h1>" in printed
    assert '<button type="button">phase</button>' in printed or '<button type="button">method</button>' in printed


def test_console_messages_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "loud.html"
    path.write_text("<!doctype html><script>console.error('so loud')</script>")
    assert "so loud" in chromium(path)[1][0]


@pytest.mark.parametrize("name", ["comparison", "run"])
def test_nothing_overflows_on_a_telephone(name: str, pages: dict[str, Path], tmp_path: Path) -> None:
    found = measured(pages[name], tmp_path, width=400)
    assert found["width"] == 400
    assert found["scroll"] <= 400
    assert found["wide"] == []
    assert all(shown == [False, True] for shown in found["figures"]), "figures are those for telephones"


def test_nothing_overflows_on_a_desk_and_figures_are_the_wide_ones(pages: dict[str, Path], tmp_path: Path) -> None:
    found = measured(pages["comparison"], tmp_path)
    assert found["scroll"] <= found["width"] == 1200
    assert found["wide"] == []
    assert all(shown == [True, False] for shown in found["figures"])


@pytest.mark.slow
def test_seven_methods_on_two_tasks_are_a_small_page_that_fits_a_telephone(tmp_path: Path) -> None:
    from zoplat.report.report import write

    methods = ("mezo", "lozo", "hizoo", "fzoo", "zo-sgd", "zo-adam", "zo-sgd-sign")
    make_runs(tmp_path / "study", tmp_path / "data", methods)
    [page] = write([tmp_path / "study"], tmp_path / "page.html")
    assert page.stat().st_size < 2_000_000
    found = measured(page, tmp_path, width=400)
    assert (found["scroll"], found["wide"]) == (400, [])


def test_dark_mode_is_followed(pages: dict[str, Path], tmp_path: Path) -> None:
    light, dark = (measured(pages["run"], tmp_path, 1200, *flags)["paper"] for flags in ((), (DARK,)))
    assert (light, dark) == ("rgb(252, 252, 250)", "rgb(21, 24, 28)")


def number(text: str) -> float:
    """What a cell counts as; infinite where it has no number, since such cells come last."""
    match = re.match(r"[<+]?(-?[\d.]+)", text.replace(",", "").replace("−", "-"))
    return float(match.group(1)) if match else float("inf")


def test_tables_sort_on_a_click_and_the_other_way_on_the_next(pages: dict[str, Path], tmp_path: Path) -> None:
    found = measured(pages["comparison"], tmp_path)
    columns = 0
    for table in found["tables"]:
        for place, column in enumerate(table["sorted"]):
            first, second = ([row[place] for row in column[side]] for side in ("first", "second"))
            assert sorted(map(tuple, column["first"])) == sorted(map(tuple, table["before"])), "no row is lost"
            if column["isNumber"]:
                assert (column["one"], column["other"]) == ("descending", "ascending")
                known = [number(text) for text in first if number(text) != float("inf")]
                assert known == sorted(known, reverse=True)
                assert [number(text) for text in second] == sorted(number(text) for text in second)
            else:
                assert (column["one"], column["other"]) == ("ascending", "descending")
                assert column["isOrdered"] == [True, True]
            columns += 1
    assert columns > 40
