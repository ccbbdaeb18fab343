"""The documentation site: pages of the checkout as they lie, by Sphinx with Furo; `make site` builds it.

The checkout is the source folder, so that relative links between pages lead where they lead on a code host. Nothing is
fetched when the site is built or read: fonts are the system's, and the search runs in the browser.
"""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from zoplat import __version__

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "Tutorial": "tutorial",
    "How-to": "how-to",
    "Methods": "methods",
    "Reference": "reference",
    "Explanation": "explanation",
    "Results": "results",
    "Experiments": "experiments",
    "Decisions": "decisions",
}
"""Caption in the sidebar → the folder of docs/ below it."""
FIRST = {"Results": ("docs/performance",)}
"""Pages that stand beside a folder's own."""
BESIDE = {
    "Project": ("CONTRIBUTING", "CHANGELOG", "changelog.d/README", "SECURITY", "docs/examples/zoplat-example/README"),
    "Data": ("zoplat/tasks/data/README", "zoplat/evaluation/general"),
}
"""Pages that are in none of the folders."""

project = "zoplat"
version = release = __version__
root_doc = "README"
extensions = ["myst_parser"]
include_patterns = ["*.md", "docs/**.md", "changelog.d/README.md", "zoplat/**.md"]
exclude_patterns = [".*", "build", "dist", "runs", "plugins", "devices", "tests", "bench", "**/.*"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 6
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # samples with an ellipsis are no whole JSON
html_theme = "furo"
html_title = "zoplat"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"


def pages_of(folder: str) -> list[str]:
    """The pages of a folder of docs/: its README first, then as docs/README.md links them, then by name."""
    linked = re.findall(r"\]\(([^)#]+)\.md", (ROOT / "docs/README.md").read_text(encoding="utf-8"))
    place = {f"docs/{name}": number for number, name in enumerate(linked)}
    found = [path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "docs" / folder).rglob("*.md")]
    return sorted(found, key=lambda name: (name != f"docs/{folder}/README", place.get(name, len(place)), name))


def sidebar() -> str:
    """Hidden tables of contents, one for each caption."""
    sections = {caption: [*FIRST.get(caption, ()), *pages_of(folder)] for caption, folder in SECTIONS.items()}
    shown = {"": ["docs/README"], **sections, **{caption: list(names) for caption, names in BESIDE.items()}}
    text = ""
    for caption, names in shown.items():
        head = f":caption: {caption}\n" if caption else ""
        text += f"\n\n```{{toctree}}\n:hidden:\n{head}\n" + "".join(f"/{name}\n" for name in names) + "```\n"
    return text


def add_sidebar(app: Sphinx, name: str, text: list[str]) -> None:
    """Give the first page the tables of contents that a code host has no use for."""
    if name == root_doc:
        text[0] += sidebar()


def lead_to_pages(app: Sphinx, name: str, text: list[str]) -> None:
    """Let a link to a folder lead to the page that a code host shows there."""
    here = (ROOT / name).parent

    def page(match: re.Match[str]) -> str:
        return f"]({match[1].rstrip('/')}/README.md)" if (here / match[1] / "README.md").is_file() else match[0]

    text[0] = re.sub(r"\]\((?![a-z]+:)([^)\s#]+)\)", page, text[0])


def copy_first_page(app: Sphinx, problem: Exception | None) -> None:
    """Make the first page that of the folder, too."""
    if problem is None and app.builder.format == "html":
        first = Path(app.outdir, f"{root_doc}.html")
        first.with_name("index.html").write_bytes(first.read_bytes())


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx is given besides settings."""
    app.connect("source-read", lead_to_pages)
    app.connect("source-read", add_sidebar)
    app.connect("build-finished", copy_first_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
