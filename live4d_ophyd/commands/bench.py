"""`live4d bench`: the measurements of benchmarks/, each one command with a table and a JSON file."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import click

from live4d_ophyd.commands.parameters import Numbers


@click.command()
@click.argument(
    "name",
    type=click.Choice(
        [
            "cpu",
            "session",
            "gpu",
            "stream",
            "receive",
            "methods",
            "imaging",
            "scans",
            "record",
            "reprocess",
            "soak",
            "sim",
        ]
    ),
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Interleaved repetitions."
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long soak may last; the report says how far it got.",
)
@click.option(
    "--devices",
    type=Numbers("N,N,...", "1,2"),
    help="Of stream and methods: numbers of GPUs to compare. One card stands for several where there are fewer.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON report here.")
def bench(
    name: str, rounds: int, minutes: float, devices: tuple[float, ...] | None, out: Path | None
) -> None:
    """Measure and compare.

    \b
    cpu: the engine on the CPU end to end against cbor2 + dectris-compression + NumPy in one thread and in a pool,
    beside the checkout that LIVE4D_BENCH_BEFORE names.
    gpu: copy, decode, sums and patterns on the GPU from pinned memory, against the copy alone and a straightforward
    pipeline, beside the checkout that LIVE4D_BENCH_BEFORE names.
    stream: from sockets to images on the GPU, alone and under a RunEngine.
    receive: receiving with libzmq and without, from a plain TCP sender and libzmq's; also onto a GPU if there is one.
    methods: from compressed frames in memory to images, one method and several; on several GPUs with --devices.
    imaging: from sockets to images of whole sets of methods on the GPU, parallax and strain among them, beside one.
    scans: what a frame costs over the size of the scan and the number of methods; fits and images of large scans.
    record: compressed frames to a file, against plain writes and h5py; and the engine with recording and without.
    reprocess: recorded frames to an image, against h5py, hdf5plugin and NumPy, and on a cluster of 1 and 2 processes.
    session: 30 and 120 kHz streams while a RunEngine, a live figure and the catalog run, with and without a
    busy Python thread in the session.
    soak: 1,000 triggers in a row, then 10 million frames; memory, threads, sockets and file handles of both processes.
    sim: frames a second of the simulator on one core, beside the checkout that LIVE4D_BENCH_BEFORE names.
    """
    try:
        benchmark = import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("benchmarks", f"benchmarks.{name}"):
            raise
        raise click.ClickException(
            "benchmarks come with the source: run this from an editable install of a checkout"
        ) from error
    if devices and name not in ("stream", "methods"):
        raise click.UsageError(f"--devices is of stream and methods, not of {name}")
    more = {"devices": tuple(map(int, devices))} if devices else {}
    report = benchmark.run(minutes if name == "soak" else rounds, **more)
    click.echo(benchmark.table(report))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
        click.echo(f"report: {out}")
