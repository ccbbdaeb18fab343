"""The docs say what the code says: names, fields, generated pages, links, and the definition of the noise."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zoplat import Key
from zoplat.config.parts import setting_fields
from zoplat.core.noise import stream
from zoplat.registry import KINDS, Entry, catalogue, hook_of
from zoplat_devices.kernels import noise
from zoplat_devices.kernels.noise import ReferenceNoise, words

ROOT = Path(__file__).parents[2]
PLACES = ("docs", "changelog.d", "zoplat", "plugins", "devices", "tests", "bench")
PAGES = sorted([*ROOT.glob("*.md"), *(path for place in PLACES for path in (ROOT / place).rglob("*.md"))])
"""Pages of zoplat; not those of runs, bundles and environments that were made in the checkout."""
OWN = [entry for entry in catalogue() if entry.distribution == "zoplat"]
NOISE = (ROOT / "docs/explanation/noise.md").read_text(encoding="utf-8").replace("−", "-")


@pytest.fixture(scope="module")
def prose() -> str:
    """All of docs/, as one text."""
    return "\n".join(path.read_text(encoding="utf-8") for path in PAGES if ROOT / "docs" in path.parents)


@pytest.mark.parametrize("hook", [hook_of(kind) for kind in KINDS])
def test_every_hook_has_a_heading(hook: str, prose: str) -> None:
    assert re.search(rf"^#+ {hook}$", prose, re.MULTILINE)


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: f"{entry.kind} {entry.name}")
def test_every_part_has_its_fields_with_their_meaning(entry: Entry) -> None:
    page = (ROOT / "docs/reference/parts.md").read_text(encoding="utf-8")
    _, _, section = page.partition(f"\n### {entry.kind} `{entry.name}`\n")
    assert section, "no heading"
    section = re.split(r"^##", section, flags=re.MULTILINE)[0]
    for field in setting_fields(entry.value) if entry.kind != "preset" else []:
        if field.name == "summary":
            assert entry.value.summary in section
        elif not callable(getattr(entry.value, field.name)):
            assert f"| `{field.name}` |" in section


@pytest.mark.parametrize("name", sorted(e.name for e in OWN if e.kind == "estimator"))
def test_every_method_has_a_page_that_names_its_source(name: str) -> None:
    page = (ROOT / f"docs/methods/{name}.md").read_text(encoding="utf-8")
    assert re.search(r"arXiv:\d{4}\.\d{5}", page)
    assert f"({name}.md)" in (ROOT / "docs/methods/README.md").read_text(encoding="utf-8")


@pytest.mark.slow  # `make test` has the same check
def test_generated_pages_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "docs/generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, heading = target.partition("#")
        found = path.parent / place if place else path
        assert found.exists(), f"{target} does not exist"
        if heading:
            assert heading in anchors(found), f"{target}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(path: Path) -> None:
    places = ("", "plugins", "devices")
    for name in re.findall(
        r"`((?:zoplat|zoplat_\w+|tests|bench|docs|plugins|devices)/[\w/.-]+)`", path.read_text("utf-8")
    ):
        assert any((ROOT / place / name).exists() for place in places), f"{name} does not exist"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_on_a_page_can_be_read_and_its_imports_are_there(path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "zoplat":
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


def anchors(path: Path) -> list[str]:
    """Headings of a page as links name them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_names_a_place_on_someones_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:home|Users|root|work|tmp|mnt)/", text)


def test_every_page_of_docs_can_be_reached_from_its_index() -> None:
    seen, ahead = set(), [ROOT / "docs/README.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        targets = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
        ahead += [page.parent / target for target in targets if ":" not in target]
    pages = {path for path in PAGES if ROOT / "docs" in path.parents and "examples" not in path.parts}
    assert pages <= seen, f"not linked: {sorted(str(path.relative_to(ROOT)) for path in pages - seen)}"


def test_the_noise_page_has_every_constant_of_the_definition() -> None:
    source = Path(noise.__file__).read_text(encoding="utf-8")
    for constant in {*re.findall(r"0x[0-9A-F]{8}", source)}:
        assert constant in NOISE, constant
    for constant in [*noise.LOG, *noise.COS, *noise.SIN, noise.ANGLE, noise.LN2]:
        assert str(constant) in NOISE, constant
    assert f"groups of {noise.GROUP}" in NOISE
    assert f"`{ReferenceNoise.name}`" in NOISE


def test_the_values_on_the_noise_page_are_those_of_the_definition() -> None:
    address = stream(Key(0, 0, 0), "w")
    assert listed("key0, key1") == list(address)
    assert listed(r"word\(0\), word\(1\), word\(2³²\)") == words(address, np.array([0, 1, 2**32], np.uint64)).tolist()
    for law, first in (("normal", 0), ("normal", 510), ("sign", 0), ("uniform", 0)):
        made = ReferenceNoise().numbers(law, address, first, (4,)).view(np.uint32).tolist()
        assert listed(f"{law}s {first} … {first + 3}") == made
    for first in (0, 256):
        made = ReferenceNoise().numbers("coarse", address, first, (4,)).view(np.uint32).tolist()
        assert listed(f"coarse numbers {first} … {first + 3}") == made


def listed(row: str) -> list[int]:
    """The hexadecimal values of a row of the page's table."""
    line = re.search(rf"^\| {row} \|(.*)\|$", NOISE, re.MULTILINE)
    assert line, row
    return [int(value, 16) for value in re.findall(r"0x[0-9a-f]{8}", line.group(1))]
