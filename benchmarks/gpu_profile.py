"""Where the time of one batch goes on the GPU: ms of each kernel and copy, for every case of `live4d bench gpu`.

`python -m benchmarks.gpu_profile 192 96u32`
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.batches import batch_of, pinned
from benchmarks.gpu import _cases
from benchmarks.source import SIZES
from live4d_ophyd.decode import FrameFormat, choose_backend
from live4d_ophyd.decode.saturation import NODATA


def profile(key: str) -> str:
    """ms of each kernel and copy of one batch, for every case."""
    import torch

    size = SIZES[key]
    batch, backend = pinned(batch_of(size)), choose_backend("gpu")
    decoder = backend.decoder(FrameFormat(size.side, size.side, np.dtype(size.dtype)), saturation=NODATA)
    lines = []
    for name, (demand, make_sinks) in _cases(size, 1).items():
        sinks = make_sinks()

        def work(demand=demand, sinks=sinks) -> None:
            for part in decoder.submit(batch, None, demand).parts():
                with decoder.working():
                    for sink in sinks:
                        sink.add(0, 0, part)

        for _ in range(3):
            work()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
            for _ in range(5):
                work()
            torch.cuda.synchronize()
        spent = {event.key: event.device_time_total / 5e3 for event in record.key_averages()}
        lines.append(f"{size.name}, {name}: {sum(spent.values()):.2f} ms")
        for what, ms in sorted(spent.items(), key=lambda item: -item[1]):
            if ms >= 0.01:
                lines.append(f"  {ms:7.3f}  {what[:100]}")
    return "\n".join(lines)


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        print(profile(chosen))
