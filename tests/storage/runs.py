"""What the tests of the catalog do in processes of their own: ``python runs.py write|read|hang DIRECTORY``.

``write`` makes runs and prints their uids as JSON; ``read`` opens the catalog by its profile and saves what
it finds to ``DIRECTORY/read.npz`` and ``read.json``; ``hang`` prints a line after three Events and waits to
be killed. Of any catalog, also a server's: ``take CATALOG`` takes a run of five Events, waits after the second
for a line on its standard input, and prints how it ended. ``afterwards`` does what lines on its standard input say, and
answers each with a line: ``["look", CATALOG, UID...]`` what the catalog has of runs; ``["live4d", ...]`` the command's
exit code, output and errors.
"""

import gc
import json
import sys
import textwrap
import traceback
from pathlib import Path

import numpy as np

#: s
PATIENCE_S = 200.0


def square_image():
    image = np.arange(32 * 32, dtype=float).reshape(32, 32) / 7
    image[3, 5] = np.nan
    return image


def devices():
    from fake_device import FakeLive4D

    square = FakeLive4D(name="live4d", shape=(32, 32), rows_per_s=100)
    square.complete = [square_image()]
    oblong = FakeLive4D(name="other", shape=(8, 20), rows_per_s=400)
    return square, oblong


def patient_record(RE, db, **options):
    """`record` on a machine where the catalog's process may take minutes to start."""
    from live4d_ophyd.storage import record, recorder

    recorder.SILENT_S = recorder.WAIT_S = PATIENCE_S
    record(RE, db, **options)


def engine(db, *previewed):
    from bluesky import RunEngine

    from live4d_ophyd.live import live_preview

    RE = RunEngine({})
    RE.preprocessors.append(live_preview(previewed, max_rate=20))
    patient_record(RE, db, previews=True)
    return RE


def write(directory):
    from bluesky import plans as bp
    from bluesky.utils import RunEngineInterrupted
    from ophyd.sim import motor

    from live4d_ophyd.storage import backup_directory, describe_run, open_catalog

    db = open_catalog(directory / "catalog")
    square, oblong = devices()
    RE = engine(db, square)
    uids = {}
    (uids["scan"],) = RE(bp.scan([square], motor, -1, 1, 2), sample="MoS2")
    (uids["two devices"],) = RE(bp.count([square, oblong]), sample="gold")
    (directory / "describe_run.txt").write_text(describe_run(db, uids["scan"]))

    asked = []

    def pause_after_a_preview(name, doc):
        if not asked:
            asked.append(True)
            RE.loop.create_task(RE._request_pause_coro())

    RE.subscribe(pause_after_a_preview, "event")
    try:
        RE(bp.count([square], num=2), sample="paused")
    except RunEngineInterrupted:
        (uids["paused"],) = RE.resume()
    left = [path.name for path in backup_directory(db).glob("*")]
    print(json.dumps({"uids": uids, "backups": left}))


def read(directory):
    from databroker import catalog
    from tiled.queries import Key

    db = catalog["live4d"]
    arrays, facts = {}, {}
    for run in db.values():
        start = run.metadata["start"]
        uid = start["uid"]
        streams = {}
        for stream in run:
            dataset = run[stream].read()
            streams[stream] = {key: [list(v.dims), str(v.dtype), list(v.shape)] for key, v in dataset.items()}
            for key, values in dataset.items():
                arrays[f"{uid}/{stream}/{key}"] = values.to_numpy()
        facts[uid] = {
            "streams": streams,
            "stop": run.metadata.get("stop"),
            "same by uid": db[uid[:8]].metadata["start"]["uid"] == uid,
            "same by scan_id": db[start["scan_id"]].metadata["start"]["uid"] == uid,
            "found by sample": [
                r.metadata["start"]["uid"] for r in db.search(Key("sample") == start["sample"]).values()
            ],
        }
    said = (directory / "describe_run.txt").read_text().partition("in any process:\n")[2]
    names = {}
    exec(textwrap.dedent(said), names)
    arrays["as described"], facts["described dims"] = names["image"].to_numpy(), names["image"].dims
    facts["last"] = db[-1].metadata["start"]["uid"]
    facts["documents"] = [name for name, _ in db[-1].documents()]
    np.savez(directory / "read.npz", **{key.replace("/", "|"): value for key, value in arrays.items()})
    (directory / "read.json").write_text(json.dumps(facts))


def hang(directory):
    from bluesky import RunEngine
    from bluesky import plans as bp

    from live4d_ophyd.storage import Recorder, backup_directory, open_catalog

    square, _ = devices()
    db = open_catalog(directory / "catalog")
    RE = RunEngine({})
    RE.scan_id_source = lambda md: 1000
    recorder = Recorder(db, backup_directory=backup_directory(db))
    RE.subscribe(recorder)
    seen = []

    def stop_exposing(name, doc):
        if "live4d_vbf_mean" in doc["data"]:
            seen.append(doc)
        if len(seen) == 3:
            square.rows_per_s = None

    def tell(msg):
        if len(seen) == 3 and msg.command == "wait":
            recorder.wait(PATIENCE_S)  # at the kill nothing is being written
            print("three events", flush=True)
            RE.msg_hook = None

    RE.subscribe(stop_exposing, "event")
    RE.msg_hook = tell
    RE(bp.count([square], num=5), sample="killed")


def numbered_image(number):
    """Another one at each Event; every second one has a hole, the first among them."""
    image = square_image() + number
    if number % 2:
        image[3, 5] = 0.1
    return image


def catalog_at(where):
    from live4d_ophyd.storage import existing_catalog, open_catalog

    return existing_catalog(where) if where.startswith("http") else open_catalog(where)


def take(where):
    from bluesky import RunEngine
    from bluesky import plans as bp

    device, _ = devices()
    RE = RunEngine({})
    patient_record(RE, catalog_at(where))
    recorder = RE.context_managers[0].__self__
    events, documents = [], {}

    def next_image(name, doc):
        documents[name] = doc
        if name == "event":
            events.append(doc)
            device.complete = [numbered_image(len(events))]
            if len(events) == 2:
                # What is written later would make room on a disk that is filled meanwhile.
                recorder.wait(PATIENCE_S)
                print(json.dumps(documents["start"]["uid"]), flush=True)
                sys.stdin.readline()

    device.complete = [numbered_image(0)]
    RE.subscribe(next_image)
    error = None
    try:
        RE(bp.count([device], num=5))
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    print(json.dumps({"error": error, "scan_id": documents["start"]["scan_id"], "events": len(events)}))


def look(where, *uids):
    from live4d_ophyd.storage import existing_catalog

    db = existing_catalog(where)
    found = []
    for uid in uids:
        data = db[uid].primary.read()
        images = data["live4d_vbf"]
        stop = db[uid].metadata.get("stop")
        found.append(
            {
                "as taken": [
                    bool(np.array_equal(image, numbered_image(number), equal_nan=True))
                    for number, image in enumerate(images.to_numpy())
                ],
                "finite means": np.isfinite(data["live4d_vbf_mean"].to_numpy()).tolist(),
                "dims": images.dims,
                "exit_status": stop and stop["exit_status"],
            }
        )
    return found


def live4d(*arguments):
    """As the console script, in this process: Tiled is imported once for several commands."""
    from click.testing import CliRunner

    from live4d_ophyd.commands.main import live4d as command

    done = CliRunner().invoke(command, arguments)
    error = done.stderr
    if done.exc_info and not isinstance(done.exception, SystemExit | None):
        error += "".join(traceback.format_exception(*done.exc_info))
    return done.exit_code, done.stdout, error


def afterwards():
    answers = sys.stdout  # commands have one of their own
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps({"look": look, "live4d": live4d}[name](*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    gc.disable()  # of a process of seconds nearly all stays until its end: what the search would cost is a third of it
    if sys.argv[1] in ("take", "afterwards"):
        {"take": take, "afterwards": afterwards}[sys.argv[1]](*sys.argv[2:])
    else:
        {"write": write, "read": read, "hang": hang}[sys.argv[1]](Path(sys.argv[2]))
    gc.freeze()  # the interpreter searches once more when it ends
