"""An old run: what it is, its images with their axes, files of them, and who else may see it.

Comes in: a run of the catalog. Goes out: a table (`describe`), xarray images (`image`), files (`export`), a read-only
server (`share`). Nothing here writes to a run; only `delete_run` takes one away. This file imports nothing, so that
`live4d listen` writes TIFF files without Bluesky.
"""
