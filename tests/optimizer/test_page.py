"""The code of docs/how-to/use-in-your-own-loop.md runs."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-in-your-own-loop.md"


@pytest.mark.slow
def test_the_code_of_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for block in blocks:
        if "import lightning" not in block or find_spec("lightning"):
            exec(compile(block, str(PAGE), "exec"), names)
    assert names["losses"][-1] < 0.5 * names["losses"][0]
    assert names["again"].progress.step == 2
    start = names["scored"].net.weight.detach().clone()
    names["trainer"].train()
    assert not start.equal(names["scored"].net.weight)
