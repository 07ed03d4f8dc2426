"""What the engine is compared with: cbor2, dectris-compression and NumPy, in one thread or a pool."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cbor2
import numpy as np
import zmq

#: frames handed to a thread of the pool at once: larger chunks did not help
CHUNK = 128
_DTYPES = {64: "u1", 69: "<u2", 70: "<u4"}


def _hook(decoder, tag, *_):
    """Tags of the stream to arrays, as vendors' examples do it."""
    from dectris.compression import decompress

    tag = tag if isinstance(tag, cbor2.CBORTag) else decoder
    if tag.tag == 40:
        shape, pixels = tag.value
        return pixels.reshape(shape)
    if tag.tag in _DTYPES:
        return np.frombuffer(tag.value, _DTYPES[tag.tag])
    if tag.tag == 56500:
        algorithm, elem_size, data = tag.value
        return decompress(data, algorithm, elem_size=elem_size)
    return tag


def _reduce(messages: list[bytes], mask: np.ndarray, image: np.ndarray) -> int:
    count = 0
    for raw in messages:
        message = cbor2.loads(raw, tag_hook=_hook)
        if message["type"] == "image":
            frame = message["data"]["threshold_1"]
            image[message["image_id"]] = frame[mask].sum()
            count += 1
    return count


def receive(endpoint: str, count: int, mask: np.ndarray, threads: int) -> np.ndarray:
    """Sums of one series of ``count`` frames, (count,) float64; ``threads`` 1 decodes where it receives."""
    image = np.full(count, np.nan)
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.rcvhwm = 50_000
    socket.connect(endpoint)
    pool = ThreadPoolExecutor(threads) if threads > 1 else None
    jobs, chunk, received = [], [], 0
    try:
        while received < count + 2:
            chunk.append(socket.recv())
            received += 1
            if pool is None:
                _reduce(chunk, mask, image)
                chunk = []
            elif len(chunk) == CHUNK or received == count + 2:
                jobs.append(pool.submit(_reduce, chunk, mask, image))
                chunk = []
        for job in jobs:
            job.result()
    finally:
        if pool:
            pool.shutdown()
        socket.close(linger=0)
        context.term()
    return image
