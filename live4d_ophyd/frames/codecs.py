"""Codecs: the ways in which a frame is compressed, each with its number in a batch, its name, and who decodes it.

Names are those of the stream v2 (DECTRIS, tag 56500); filter ids those of the HDF Group's register of filter plugins.
"""

from __future__ import annotations

from dataclasses import dataclass

# FrameBatch.index's column ALGORITHM. Kernels know these numbers.
RAW, BSLZ4, LZ4, BSZSTD, TRPX, OTHER_ALGORITHM = range(6)


@dataclass(frozen=True)
class Codec:
    """One way to compress a frame."""

    number: int  #: in the column ALGORITHM of a batch
    name: str  #: "": uncompressed
    hdf5_filter: int | None  #: None: HDF5 has none, or needs none
    shuffled: bool = False  #: bits of the pixels are transposed first (bitshuffle)
    framed: bool = False  #: begins with 12 bytes: decoded size, block size
    own: bool = False  #: kernels of this package decode it on a CPU; else dectris-compression does
    gpu: bool = False  #: it has a decoder on a GPU


CODECS = (
    Codec(RAW, "", None, own=True, gpu=True),
    Codec(BSLZ4, "bslz4", 32008, shuffled=True, framed=True, own=True, gpu=True),
    Codec(LZ4, "lz4", 32004, framed=True, own=True, gpu=True),
    Codec(BSZSTD, "bszstd", 32008, shuffled=True, framed=True, gpu=True),
    Codec(TRPX, "trpx", None),
)
#: by name; others are OTHER_ALGORITHM
BY_NAME = {codec.name: codec for codec in CODECS}


def number_of(name: str) -> int:
    """The number of an algorithm in a batch, OTHER_ALGORITHM for one that is not known."""
    return BY_NAME[name].number if name in BY_NAME else OTHER_ALGORITHM
