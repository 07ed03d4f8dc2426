"""One GPU beside several: the backends, what their rates say, and the table of it.

In: how many devices a backend has, and the rates that were measured with so many. Out: what a report keeps of them, and
its lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

_SPELLED = {"khz": "kHz", "mhz": "MHz"}


def cards_here() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return int(torch.cuda.device_count())


def backend_of(devices: int, cards: int) -> str:
    """Backend with so many devices: cards in turn, one of them several times where there are fewer."""
    return "gpu:" + ",".join(str(n % cards) for n in range(devices))


def compared(rates: Mapping[int, Sequence[float]], unit: str) -> dict:
    """Median, range and ratio to the first of the rates in ``unit``, by number of devices."""
    middle = {count: median(of) for count, of in rates.items()}
    first = next(iter(middle.values()))
    return {
        unit: middle,
        f"{unit}_range": {count: [min(of), max(of)] for count, of in rates.items()},
        "ratio": {count: rate / first for count, rate in middle.items()},
    }


def table(title: str, results: Mapping[str, dict], unit: str, digits: int) -> str:
    """A line for each of what `compared` said."""
    counts = list(next(iter(results.values()))[unit])
    lines = [f"{title:45} " + "".join(f"{n:>8} GPU  ratio" for n in counts)]
    for name, r in results.items():
        cells = "".join(f"{r[unit][n]:8.{digits}f} {_SPELLED[unit]} {r['ratio'][n]:6.2f}" for n in counts)
        lines.append(f"{name:45} {cells}")
    return "\n".join(lines)
