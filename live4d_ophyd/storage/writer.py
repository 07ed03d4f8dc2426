"""One run's documents into the catalog, each Event at once, with the dimensions their data keys name.

Comes in: the documents of a run as `Storable` lets them through. Goes out: nodes of the catalog. Everything runs in the
thread that calls; Tiled's client must not be called by two that write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter
from tiled.structures.core import Spec

from live4d_ophyd.image_streams import RAW_MIMETYPE
from live4d_ophyd.storage.raw_frames import SPEC


def run_writer(client: Any) -> Callable[[str, dict], Any]:
    """What writes one run's documents, its start document first, into the catalog.

    Tiled's own writer names dimensions of inline arrays by their size: a square image gets one name twice, and
    ``isel`` on it silently returns the diagonal. It pads arrays that change their shape, and cuts off numbers. And it
    holds 10,000 Events in memory before it writes.
    """
    # What TiledWriter's own factory makes, with another run writer.
    normalizer = RunNormalizer()
    # Arrays of 16 elements and fewer would go to table columns, which `read([key])` silently leaves out.
    normalizer.subscribe(_NamedDimsRunWriter(client.include_data_sources(), batch_size=1, max_array_size=0))
    return normalizer


def array_dims(data_keys: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Dimension names of a stream's arrays, the leading ``time`` left out.

    A key's ``dims`` are taken as they are; keys without get names of their own. One name has one size in a
    stream, or xarray would refuse the whole stream: of two devices with different rasters the first keeps
    ``scan_y, scan_x``, the second gets ``KEY_scan_y, KEY_scan_x``.
    """
    sizes: dict[str, int] = {}
    result = {}
    for key, data_key in data_keys.items():
        shape = data_key.get("shape") or ()
        names = tuple(data_key.get("dims") or ())
        if data_key.get("dtype") != "array" or None in shape:
            continue
        if len(names) != len(shape) or len(set(names)) < len(names):
            names = tuple(f"{key}_dim_{axis}" for axis in range(1, len(shape) + 1))
        if any(sizes.get(name, size) != size for name, size in zip(names, shape)):
            names = tuple(f"{key}_{name}" for name in names)
        sizes.update(zip(names, shape))
        result[key] = names
    return result


class _NamedDimsRunWriter(_RunWriter):
    """Writes one run, as `Storable` lets it through; the arrays of its streams get the dimensions of ``array_dims``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._types: defaultdict[str, dict[str, type]] = defaultdict(
            dict
        )  # by stream: of the table's columns

    def descriptor(self, doc: Any) -> None:
        dims = array_dims(doc["data_keys"])
        # External arrays get the dimensions that their data key says.
        keys = {
            key: {**value, "dims": list(dims[key])} if "external" in value and key in dims else value
            for key, value in doc["data_keys"].items()
        }
        super().descriptor({**doc, "data_keys": keys})
        name = doc["name"]
        node = self._desc_nodes[name]
        if not isinstance(node, _NamedDimsStream):
            named = cast(Any, _NamedDimsStream(node, dims))
            self._desc_nodes[name] = self._desc_nodes[doc["uid"]] = named
            # Arrays of no declared size would go to tables, which SQLite has no type for.
            self._int_array_keys[name] |= self._int_ragged_array_keys.pop(name, set())
            self._int_array_keys[name].update(
                key
                for key, value in doc["data_keys"].items()
                if value["dtype"] == "array" and "external" not in value
            )

    def _write_internal_data(self, data_cache: list[dict[str, Any]], desc_node: Any) -> None:
        (row,) = data_cache
        stream = desc_node.item["id"]
        arrays = self._int_array_keys[stream] & row.keys()
        for key in arrays:
            self.data_keys[key] = {**self.data_keys[key], "dtype_numpy": row[key].dtype.str}
        types = {key: type(row[key]) for key in row.keys() - arrays if row[key] is not None}
        known = self._types[stream]
        new = {key: kind for key, kind in types.items() if known.get(key) is not kind}
        for key in new.keys() & self.data_keys.keys():
            self.data_keys[key] = {**self.data_keys[key], "dtype_numpy": np.dtype(new[key]).str}
        if wider := {key: kind for key, kind in new.items() if key in known}:
            self._widen(stream, desc_node, wider)
        known.update(new)
        super()._write_internal_data(data_cache, desc_node)

    def _widen(self, stream: str, desc_node: Any, types: Mapping[str, type]) -> None:
        """Write the stream's table anew with columns of these types. If that fails, the backup has the run."""
        tables = {
            name: table
            for name, table in self._internal_tables.items()
            if table.item["attributes"]["ancestors"][-1] == stream
        }
        parts = [table.read().to_dict("records") for table in tables.values()]
        rows = [
            {key: value for part in parts_of_row for key, value in part.items()}
            for parts_of_row in zip(*parts)
        ]
        for row in rows:
            row.update({key: wanted(row[key]) for key, wanted in types.items()})
        desc_node.delete_contents([table.item["id"] for table in tables.values()], external_only=False)
        for name in tables:
            del self._internal_tables[name]
        super()._write_internal_data(rows, desc_node)


class _NamedDimsStream:
    """A stream's node in the catalog that knows the dimensions of its arrays better than its writer."""

    def __init__(self, node: Any, dims: Mapping[str, tuple[str, ...]]) -> None:
        self._node = node
        self._dims = dims

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def new(self, *args: Any, data_sources: list[Any], specs: list[Any], **kwargs: Any) -> Any:
        """Make a node for external data; that of recorded frames says how it is read."""
        if any(source.mimetype == RAW_MIMETYPE for source in data_sources):
            specs = [*specs, Spec(SPEC)]
        return self._node.new(*args, data_sources=data_sources, specs=specs, **kwargs)

    def write_array(self, array: Any, *, key: str, dims: tuple[str, ...], **kwargs: Any) -> Any:
        named = self._dims.get(key, ())
        if len(named) == array.ndim - 1:
            dims = (dims[0], *named)
        return self._node.write_array(array, key=key, dims=dims, **kwargs)
