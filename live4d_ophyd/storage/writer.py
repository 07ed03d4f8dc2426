"""Bluesky documents into the catalog, each Event at once, with the dimensions their data keys name.

Comes in: the documents of a RunEngine, through ``record``. Goes out: nodes of the catalog. Everything runs in
the thread that emits the documents (the RunEngine's): Tiled's embedded client must not be called from two.
A document passes ``_Wanted`` (is its stream stored?), ``Storable`` (can it be?), ``BackedUp`` and the run's writer.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from bluesky_tiled_plugins import TiledWriter
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter
from event_model import RunRouter

from live4d_ophyd.image_streams import previewed_device
from live4d_ophyd.storage.backup import BackedUp
from live4d_ophyd.storage.catalog import backup_directory
from live4d_ophyd.storage.restore import read_start
from live4d_ophyd.storage.storable import Storable, check_start, storable_metadata


class CatalogWriter(TiledWriter):
    """A ``TiledWriter`` that stores inline images under the ``dims`` of their data keys, one Event at a time.

    Tiled's own names dimensions of inline arrays by their size: a square image gets one name twice, and
    ``isel`` on it silently returns the diagonal. It pads arrays that change their shape, and cuts off numbers. And it
    holds 10,000 Events in memory before it writes. This one raises `Unstorable` for a document that would not be
    stored as what it is, which ends the run: what came before is stored, with the stop document.

    Parameters
    ----------
    client
        A catalog client, as of ``open_catalog``.
    backup_directory
        Each run's documents go to ``DIRECTORY/UID.jsonl``, too, and the file is removed when the run is
        complete in the catalog. What lies there belongs to runs that are not: the session died, or the
        catalog could not be written (disk full), in which case the plan goes on. `live4d restore` brings
        it into the catalog.
    previews
        Store the streams of previews (``live4d_live``) as well. They take far more room than the results.
    skip_streams
        Names of further streams that are not stored.
    """

    def __init__(
        self,
        client: Any,
        *,
        backup_directory: str | os.PathLike | None = None,
        previews: bool = False,
        skip_streams: Collection[str] = (),
    ) -> None:
        super().__init__(client)
        self._run_router = RunRouter([self._callbacks_of_run])
        self._backups = None if backup_directory is None else Path(backup_directory)
        self._previews = previews
        self._skip_streams = frozenset(skip_streams)

    def _callbacks_of_run(self, name: str, start: dict) -> tuple[list[Callable], list]:
        check_start(start)
        write = run_writer(self.client)
        if self._backups is not None:
            write = BackedUp(write, self._backups / f"{start['uid']}.jsonl")
        return [_Wanted(Storable(write), self._previews, self._skip_streams)], []


def run_writer(client: Any) -> Callable[[str, dict], Any]:
    """What writes one run's documents, its start document first, into the catalog; of ``CatalogWriter``."""
    # What TiledWriter's own factory makes, with another run writer.
    normalizer = RunNormalizer()
    # Arrays of 16 elements and fewer would go to table columns, which `read([key])` silently leaves out.
    normalizer.subscribe(_NamedDimsRunWriter(client.include_data_sources(), batch_size=1, max_array_size=0))
    return normalizer


def record(RE: Any, db: Any, *, previews: bool = False, skip_streams: Collection[str] = ()) -> int:
    """Store every run of the RunEngine in the catalog from now on; returns the token for ``RE.unsubscribe``.

    ``db`` is a client of ``open_catalog``, of ``databroker.catalog[...]`` or of a Tiled server;
    ``backup_directory(db)`` is used. Scan ids go on from the newest run in the catalog or its backups, unless
    the RunEngine's metadata hold one already, so that ``db[scan_id]`` is unique over sessions. Metadata that cannot
    be stored are refused before a run begins. ``previews`` and ``skip_streams`` as in ``CatalogWriter``.
    """
    backups = backup_directory(db)
    if "scan_id" not in RE.md and (newest := _newest_run(db, backups)):
        RE.md["scan_id"] = newest.get("scan_id", 0)
    validate = RE.md_validator

    def storable(metadata: dict) -> None:
        validate(metadata)
        storable_metadata(metadata)

    RE.md_validator = storable
    writer = CatalogWriter(db, backup_directory=backups, previews=previews, skip_streams=skip_streams)
    return RE.subscribe(writer)


def _newest_run(db: Any, backups: Path | None) -> Mapping[str, Any] | None:
    """The start document of the run that began last. It need not be ``db[-1]``: runs are restored later."""
    starts = []
    with suppress(IndexError):  # an empty catalog; len(db) would not do, Tiled caches it
        # Tiled compares the text of numbers: good for times of one length, not for scan ids.
        starts.append(db.sort(("start.time", -1)).values().first().metadata["start"])
    for path in backups.glob("*.jsonl") if backups else ():
        with suppress(ValueError, OSError):  # `live4d restore` says what is wrong with it
            starts.append(read_start(path))
    return max(starts, key=lambda start: start["time"], default=None)


def array_dims(data_keys: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Dimension names of a stream's inline arrays, the leading ``time`` left out.

    A key's ``dims`` are taken as they are; keys without get names of their own. One name has one size in a
    stream, or xarray would refuse the whole stream: of two devices with different rasters the first keeps
    ``scan_y, scan_x``, the second gets ``KEY_scan_y, KEY_scan_x``.
    """
    sizes: dict[str, int] = {}
    result = {}
    for key, data_key in data_keys.items():
        shape = data_key.get("shape") or ()
        names = tuple(data_key.get("dims") or ())
        if data_key.get("dtype") != "array" or "external" in data_key or None in shape:
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
        super().descriptor(doc)
        name = doc["name"]
        node = self._desc_nodes[name]
        if not isinstance(node, _NamedDimsStream):
            named = cast(Any, _NamedDimsStream(node, array_dims(doc["data_keys"])))
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

    def write_array(self, array: Any, *, key: str, dims: tuple[str, ...], **kwargs: Any) -> Any:
        named = self._dims.get(key, ())
        if len(named) == array.ndim - 1:
            dims = (dims[0], *named)
        return self._node.write_array(array, key=key, dims=dims, **kwargs)


class _Wanted:
    """Leaves out the descriptors and Events of the named streams and, if not asked for, of previews."""

    def __init__(self, write: Callable[[str, dict], Any], previews: bool, unwanted: frozenset[str]) -> None:
        self._write = write
        self._previews = previews
        self._unwanted = unwanted
        self._descriptors: set[str] = set()

    def __call__(self, name: str, doc: dict) -> None:
        if name == "descriptor" and (
            doc["name"] in self._unwanted or (not self._previews and previewed_device(doc) is not None)
        ):
            self._descriptors.add(doc["uid"])
        elif doc.get("descriptor") not in self._descriptors:
            self._write(name, doc)
