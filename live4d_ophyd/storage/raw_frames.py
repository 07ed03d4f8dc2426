"""Recorded frames of a run, through the catalog: one file an Event, read where they lie, a pattern at a time.

In: StreamResource and StreamDatum documents of the type `RAW_MIMETYPE` (`Consolidator`), the files that they name
(`Adapter`, in Tiled's server). Out: an array (time, scan_y, scan_x, q_y, q_x) (`RawFramesClient`). Tiled's own adapter
makes a task of each chunk, a pattern, at every request: seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from bluesky_tiled_plugins.writing.consolidators import CONSOLIDATOR_REGISTRY, HDF5Consolidator
from tiled.adapters.array import ArrayAdapter
from tiled.client.array import DaskArrayClient
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.data_source import Asset
from tiled.utils import path_from_uri

from live4d_ophyd.image_streams import RAW_MIMETYPE
from live4d_ophyd.recording.frame_sets import FRAMES, SCAN, frames_of

#: by which Tiled's client finds `RawFramesClient` (entry point)
SPEC = "Live4DRawFrames"


class Consolidator(HDF5Consolidator):
    """What Tiled is told of the files of a stream."""

    supported_mimetypes: ClassVar = {RAW_MIMETYPE}

    def __init__(self, stream_resource: Any, descriptor: Any) -> None:
        super().__init__(stream_resource, descriptor)
        self._add_further(stream_resource)

    def update_from_stream_resource(self, stream_resource: Any) -> None:
        super().update_from_stream_resource(stream_resource)
        self._add_further(stream_resource)

    def _add_further(self, stream_resource: Any) -> None:
        """Files of a movie's rasters that were collected at once."""
        for uri in stream_resource["parameters"].get("further_uris", ()):
            number = len(self.assets)
            self.assets.append(Asset(uri, is_directory=False, parameter=self.default_asset_role, num=number))

    def adapter_parameters(self) -> dict[str, Any]:
        scan = self._sres_parameters["dataset"]
        return {} if scan == SCAN else {"frames": frames_of(scan)}


CONSOLIDATOR_REGISTRY[RAW_MIMETYPE] = Consolidator


class RawFramesClient(DaskArrayClient):
    """Recorded frames in a catalog: ``raw[0, 10, 20]`` is a pattern, read now; ``read()`` a dask array, read later.

    Frames that were lost are zeros, as in every reader of the file; its ``/entry/recording/frame_state`` tells.
    """

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(super().__getitem__(key))

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.asarray(self.read()).__array__(*args, **kwargs)


class Adapter(ArrayAdapter):
    """What serves the frames of a stream."""

    @classmethod
    def from_catalog(cls, data_source: Any, node: Any, /, **_: Any) -> Adapter:
        structure = data_source.structure
        assets = sorted(data_source.assets, key=lambda asset: asset.num or 0)
        paths = [Path(path_from_uri(asset.data_uri)) for asset in assets]
        dataset = (data_source.parameters or {}).get("frames", FRAMES)
        files = RawFiles(paths, structure.shape[1:], structure.data_type.to_numpy_dtype(), dataset)
        return cls(files, structure, metadata=node.metadata_, specs=node.specs)

    def read(self, slice: NDSlice = NDSlice(...)) -> np.ndarray:  # noqa: B008
        return self._array[tuple(slice.expand_for_shape(self._structure.shape))]

    def read_block(self, block: NDBlock, slice: NDSlice = NDSlice(...)) -> np.ndarray:  # noqa: B008
        whole = self._array[tuple(block.slice_from_chunks(self._structure.chunks))]
        return whole[tuple(slice)] if slice else whole


class RawFiles:
    """Files with a raster each as one array, (n, scan_y, scan_x, q_y, q_x), of which only what is asked for is read."""

    def __init__(
        self, paths: list[Path], shape: tuple[int, ...], dtype: np.dtype, dataset: str = FRAMES
    ) -> None:
        self._paths, self._shape, self._dtype, self._dataset = paths, shape, dtype, dataset

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        """``key``: an int or a slice for each axis."""
        event, *rest = key
        if isinstance(event, int):
            return self._raster(event, *rest)
        return _stack([self._raster(n, *rest) for n in range(*event.indices(len(self._paths)))], self._dtype)

    def _raster(self, event: int, row: Any, col: Any, q_row: Any, q_col: Any) -> np.ndarray:
        import hdf5plugin  # noqa: F401  the filters of the frames: no catalog needs them to be opened

        rows, cols = self._shape[:2]
        path = self._paths[event]
        if not path.exists():
            raise FileNotFoundError(f"the frames of Event {event + 1} are not there: {path}")
        with h5py.File(path, "r") as file:
            frames = self._frames(file, path)
            first, last, step = (col, col + 1, 1) if isinstance(col, int) else col.indices(cols)

            def line(y: int) -> np.ndarray:
                part = frames[y * cols + first : y * cols + last : step, q_row, q_col]
                return part[0] if isinstance(col, int) else part

            if isinstance(row, int):
                return line(row)
            return _stack([line(y) for y in range(*row.indices(rows))], self._dtype)

    def _frames(self, file: h5py.File, path: Path) -> h5py.Dataset:
        """The frames of a file. Raises ValueError unless they are what the catalog says, and lie in this file."""
        if self._dataset not in file:
            raise ValueError(f"{path} has no frames {self._dataset}: the detector did not send this channel")
        frames = file[self._dataset]
        rows, cols, *pattern = self._shape
        if frames.shape != (rows * cols, *pattern) or frames.dtype != self._dtype:
            raise ValueError(
                f"{path} has frames {frames.shape} of {frames.dtype}; the catalog says {rows} x {cols} of "
                f"{tuple(pattern)}, {self._dtype}"
            )
        if frames.external or frames.is_virtual or frames.file.filename != file.filename:
            raise ValueError(f"the frames of {path} lie in other files")
        return frames


def _stack(parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    return np.stack(parts) if parts else np.empty(0, dtype)
