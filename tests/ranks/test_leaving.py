"""How a process that exchanged numbers leaves: the threads of gloo must not need Python when it ends."""

import json
import os
import socket
import subprocess
import sys

import pytest

pytest.importorskip("torch")

RANK = """
import json, time
from pathlib import Path
from zoplat.core.exchange import ROOM
from zoplat_devices.pytorch.exchange import TorchExchange

def wakings():
    "How often each worker thread of gloo has been woken so far."
    threads = [folder for folder in Path("/proc/self/task").iterdir() if "runloop" in (folder / "comm").read_text()]
    texts = [(folder / "status").read_text().splitlines() for folder in threads]
    return [line for lines in texts for line in lines if line.startswith("voluntary")]

exchange = TorchExchange("cpu", 60.0)
exchange.gather([])
time.sleep(0.2)
before = wakings()
rows = exchange.gather([float(exchange.rank)] * (ROOM + 3))
text = exchange.share(b"summary" if exchange.rank == 0 else b"").decode()
exchange.agree("weights", "same")
time.sleep(0.2)
print(json.dumps([rows, text, before, wakings()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are looked at in /proc")
def test_nothing_is_left_to_threads_of_gloo_that_hold_what_belongs_to_python() -> None:
    """They release it some time later; where Python has ended by then, the process aborts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    fixed = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", RANK]
    processes = [
        subprocess.Popen(line, env={**os.environ, **fixed, "RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    for process in processes:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        rows, text, before, after = json.loads(output.splitlines()[-1])
        assert rows == [[0.0] * 17, [1.0] * 17]
        assert text == "summary"
        assert before == after
        assert len(before) >= 2
