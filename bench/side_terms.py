"""Where a side term (x V) Uᵀ goes beside a product x Wᵀ + b: four places, interleaved, in processor time.

    OMP_NUM_THREADS=1 python bench/side_terms.py

Shapes are those of the layers of OPT-125M. Each figure is the median over rounds, in microseconds; twelve matrices take
turns, so that they come from memory as in a model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

MATRICES, ROUNDS, RANK, SPARE = 12, 15, 2, 16
SHAPES = ((768, 768), (3072, 768), (768, 3072))
ROWS = (32, 256, 512)


def ways(rows: int, out: int, wide: int) -> dict[str, Callable[[int], object]]:
    """The product alone, its parts, and the products with a side term; by name, of matrix number i."""
    x, bias = torch.randn(rows, wide), torch.randn(out)
    weights = [torch.randn(out, wide) for _ in range(MATRICES)]
    spacious = [torch.randn(out, wide + SPARE) for _ in range(MATRICES)]
    us, vs = [torch.randn(out, RANK) for _ in range(MATRICES)], [torch.randn(wide, RANK) for _ in range(MATRICES)]
    vts = [v.t().contiguous() for v in vs]
    joined = torch.zeros(rows, wide + SPARE)

    def before(i: int) -> object:
        t = torch.mm(vts[i], x.t()).t()
        return torch.addmm(bias, t, us[i].t()).addmm_(x, weights[i].t())

    def after(i: int) -> object:
        y = functional.linear(x, weights[i], bias)
        return y.addmm_(torch.mm(vts[i], x.t()).t(), us[i].t())

    def columns(i: int) -> object:
        joined[:, :wide] = x
        joined[:, wide : wide + RANK] = torch.mm(vts[i], x.t()).t()
        return functional.linear(joined, spacious[i], bias)

    return {
        "product alone": lambda i: functional.linear(x, weights[i], bias),
        "side term before": before,
        "side term after": after,
        "more columns": columns,
        "x V": lambda i: torch.mm(x, vs[i]),
        "Vᵀxᵀ": lambda i: torch.mm(vts[i], x.t()),
    }


def main() -> None:
    """Print a line for each shape."""
    with torch.inference_mode():
        for rows in ROWS:
            for out, wide in SHAPES:
                found = ways(rows, out, wide)
                seconds: dict[str, list[float]] = {name: [] for name in found}
                for _ in range(ROUNDS):
                    for name, work in found.items():
                        began = time.process_time()
                        for i in range(MATRICES):
                            work(i)
                        seconds[name].append((time.process_time() - began) / MATRICES)
                medians = (f"{name} {1e6 * statistics.median(each):,.0f}" for name, each in seconds.items())
                print(f"{rows} × {wide} → {out}:", ", ".join(medians), flush=True)


if __name__ == "__main__":
    main()
