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
    bitshuffle: int | None = None  #: what bitshuffle compresses with: its fifth option in HDF5
    shuffled: bool = False  #: bits of the pixels are transposed first (bitshuffle)
    framed: bool = False  #: begins with 12 bytes: decoded size, block size
    own: bool = False  #: kernels of this package decode it on a CPU; else dectris-compression does
    gpu: bool = False  #: it has a decoder on a GPU
    most: int = 1  #: decoded bytes that one compressed byte can become


CODECS = (
    Codec(RAW, "", None, own=True, gpu=True),
    # LZ4 says "255 more" in a byte. Zstandard repeats a byte over a block of 128 KiB, in 17 bytes with its frame. TERSE
    # has a bit for 12 pixels, of up to 8 bytes, that are as wide as those before.
    Codec(BSLZ4, "bslz4", 32008, 2, shuffled=True, framed=True, own=True, gpu=True, most=255),
    Codec(LZ4, "lz4", 32004, framed=True, own=True, gpu=True, most=255),
    Codec(BSZSTD, "bszstd", 32008, 3, shuffled=True, framed=True, gpu=True, most=8192),
    Codec(TRPX, "trpx", None, most=1024),
)
#: by name; others are OTHER_ALGORITHM
BY_NAME = {codec.name: codec for codec in CODECS}


#: element sizes that bit planes are read back from
ELEM_SIZES = (1, 2, 4, 8)
#: of algorithms that are not known: nothing comes of them
_MOST_OF_OTHERS = 0
#: `Codec.most` by number, OTHER_ALGORITHM included
MOST = (*(codec.most for codec in CODECS), _MOST_OF_OTHERS)


def most_of(name: str) -> int:
    """`Codec.most` by name."""
    return BY_NAME[name].most if name in BY_NAME else _MOST_OF_OTHERS


def name_of(number: int) -> str | None:
    """The name of the algorithm that has this number in a batch; None for one that is not known."""
    return CODECS[number].name if 0 <= number < len(CODECS) else None


def number_of(name: str) -> int:
    """The number of an algorithm in a batch, OTHER_ALGORITHM for one that is not known."""
    return BY_NAME[name].number if name in BY_NAME else OTHER_ALGORITHM
