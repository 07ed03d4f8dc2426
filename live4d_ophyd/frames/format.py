"""FrameFormat: what every frame of a series looks like, taken from the stream's own messages."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from live4d_ophyd.frames.encoded_array import array_tag


@dataclass(frozen=True)
class FrameFormat:
    """Shape and dtype of every frame of a series, as its messages say."""

    rows: int
    cols: int
    dtype: np.dtype
    tag: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"frame of {self.rows} x {self.cols} px: expected at least one pixel")
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "tag", array_tag(self.dtype))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.cols

    @property
    def pixels(self) -> int:
        return self.rows * self.cols

    @property
    def nbytes(self) -> int:
        return self.pixels * self.dtype.itemsize
