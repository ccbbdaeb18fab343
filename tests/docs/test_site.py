"""The documentation site: built without a warning, and read in headless Chromium without a network."""

import html
import json
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ..report.test_in_a_browser import CHROMIUM, DARK, chromium

pytest.importorskip("sphinx", reason="sphinx is not installed: the extra `docs`")
pytest.importorskip("furo", reason="furo is not installed: the extra `docs`")

ROOT = Path(__file__).parents[2]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
VISIT = """<!doctype html><iframe width="{width}" height="900" style="border: 0"></iframe><pre></pre><script>
const frame = document.querySelector("iframe"), found = {{}};
const loaded = () => new Promise((done) => frame.addEventListener("load", done, {{once: true}}));
const settled = (test) => new Promise((done) => {{
  const timer = setInterval(() => test() && (clearInterval(timer), done()), 50);
}});
async function visit() {{
  for (const name of {pages}) {{
    const ready = loaded();
    frame.src = name;
    await ready;
    const page = frame.contentDocument, view = frame.contentWindow;
    if (name.includes("?q="))
      await settled(() => page.querySelectorAll("#search-results li").length &&
                          !page.querySelector("#search-progress")?.textContent.includes("Preparing"));
    const scrolls = (element) => element.closest("pre, .table-wrapper, .highlight, .sidebar-drawer, .toc-drawer, svg");
    const isOut = (element) => element.getBoundingClientRect().right > view.innerWidth + 1 && !scrolls(element);
    found[name] = {{
      title: page.title,
      width: view.innerWidth,
      scroll: page.scrollingElement.scrollWidth,
      wide: [...page.querySelectorAll("article *")].filter(isOut).map((element) => element.outerHTML.slice(0, 200)),
      broken: [...page.images].filter((image) => image.complete && !image.naturalWidth).map((image) => image.src),
      paper: view.getComputedStyle(page.body).backgroundColor,
      ink: view.getComputedStyle(page.body).color,
      hits: [...page.querySelectorAll("#search-results li a")].map((link) => link.getAttribute("href")),
    }};
  }}
  document.querySelector("pre").textContent = JSON.stringify(found);
}}
visit();
</script>
"""
"""A page that visits others in a frame, as wide as a telephone if need be: Chromium's own windows are not as narrow."""


def build(folder: Path, builder: str) -> str:
    """Build the pages as `make site` does; what was written on standard error."""
    words = ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env", "-c", str(ROOT / "docs/site")]
    command = [sys.executable, "-m", "sphinx", *words, "-d", str(folder / "read"), "-b", builder, str(ROOT)]
    done = subprocess.run([*command, str(folder / "site")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_pages_are_read_without_a_warning_and_no_link_leads_nowhere(tmp_path: Path) -> None:
    assert build(tmp_path, "dummy") == ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert build(folder, "html") == ""
    return folder / "site"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def visited(site: Path, pages: list[str], width: int = 1200, *flags: str) -> dict[str, dict[str, Any]]:
    """What is found on each of these pages, served from this machine; console messages fail."""
    (site / "visit.html").write_text(VISIT.format(width=width, pages=json.dumps(pages)))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/visit.html"
        budget = f"--virtual-time-budget={5000 + 2000 * len(pages)}"
        printed, console = chromium(address, budget, "--window-size=1400,1000", *flags)
        server.shutdown()
    (site / "visit.html").unlink()
    assert console == []
    match = re.search(r"<pre>(.+?)</pre>", printed, re.DOTALL)
    assert match, printed[-1000:]
    return dict(json.loads(html.unescape(match.group(1))))


@pytest.mark.slow
def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    fetched = r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*\bhref=[\"']?(?:https?:)?//"
    for page in site.rglob("*.html"):
        assert not re.search(fetched, page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style


@pytest.mark.slow
@needs_browser
def test_no_page_has_a_console_message_or_overflows_on_a_telephone(site: Path) -> None:
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if "_static" not in path.parts)
    assert len(pages) > 100
    found = visited(site, pages, 400)
    assert found.keys() == {*pages}
    for name, page in found.items():
        assert (page["width"], page["wide"], page["broken"]) == (400, [], []), name
        assert page["scroll"] <= 400, name


@pytest.mark.slow
@needs_browser
def test_nothing_overflows_on_a_desk(site: Path) -> None:
    for name, page in visited(site, ["index.html", "docs/reference/parts.html", "docs/performance.html"]).items():
        assert (page["width"], page["wide"], page["broken"]) == (1200, [], []), name


@pytest.mark.slow
@needs_browser
def test_the_search_finds_a_method(site: Path) -> None:
    [found] = visited(site, ["search.html?q=lozo"]).values()
    assert any(link.startswith("docs/methods/lozo.html") for link in found["hits"])


@pytest.mark.slow
@needs_browser
def test_the_search_works_in_a_folder_without_a_server(site: Path) -> None:
    printed, console = chromium(f"{(site / 'search.html').as_uri()}?q=lozo", "--virtual-time-budget=20000")
    assert console == []
    assert re.search(r'<li[^>]*>\s*<a href="docs/methods/lozo.html', printed)


@pytest.mark.slow
@needs_browser
def test_light_and_dark_are_followed(site: Path) -> None:
    light, dark = (visited(site, ["index.html"], 1200, *flags)["index.html"] for flags in ((), (DARK,)))
    for page, is_dark in ((light, False), (dark, True)):
        assert (brightness(page["paper"]) < 0.3) == is_dark
        assert abs(brightness(page["paper"]) - brightness(page["ink"])) > 0.5


def brightness(color: str) -> float:
    """From 0 to 1, of a colour as Chromium prints it."""
    red, green, blue = (int(part) for part in re.findall(r"\d+", color)[:3])
    return (red + green + blue) / 3 / 255
