"""A recorded file as HyperSpy and py4DSTEM show it: ``reader_pictures.py FILE.h5 PICTURE.png``, with `.venv-readers`.

HyperSpy's navigator and signal plots are its own windows, drawn to files; py4DSTEM's virtual image is its own picture.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import hdf5plugin  # noqa: F401  the frames' filter
import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image


def shot(figure) -> Image.Image:
    """What the window of a figure shows."""
    data = io.BytesIO()
    figure.savefig(data, dpi=100)
    return Image.open(data).convert("RGB")


def in_hyperspy(path: str) -> list[Image.Image]:
    import hyperspy.api as hs

    signal = hs.load(path, file_format="NeXus", use_default=True)
    print("HyperSpy:", signal, signal.axes_manager, sep="\n")
    signal.axes_manager.indices = tuple(n // 3 for n in signal.axes_manager.navigation_shape)
    signal.plot()
    return [shot(signal._plot.navigator_plot.figure), shot(signal._plot.signal_plot.figure)]


def in_py4dstem(path: str) -> list[Image.Image]:
    import py4DSTEM

    cube = py4DSTEM.read(path)
    print("py4DSTEM:", cube)
    rows, cols = cube.Qshape
    cube.get_virtual_image(
        mode="circle", geometry=((rows / 2, cols / 2), rows / 4), name="bright field", verbose=False
    )
    figure, _ = py4DSTEM.show(
        cube.tree("bright field").data, title="py4DSTEM: virtual image", returnfig=True, figsize=(5, 5)
    )
    return [shot(figure)]


def main(path: str, picture: str) -> None:
    shots = [*in_hyperspy(path), *in_py4dstem(path)]
    plt.close("all")
    height = max(image.height for image in shots)
    width = sum(image.width for image in shots)
    whole = Image.new("RGB", (width, height), "white")
    for image, left in zip(shots, np.cumsum([0, *(image.width for image in shots)])):
        whole.paste(image, (int(left), (height - image.height) // 2))
    whole.save(Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
