"""Recorded frames on several processes, by dask.distributed: the images of one process, or an error that names what."""

import sys
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest
from dying_method import Dying
from recorded_file import recorded_file

from live4d_ophyd import (
    CenterOfMass,
    ClusterFailed,
    Disk,
    MeanPattern,
    NoMethod,
    ScanGrid,
    cluster,
    reprocess,
)
from live4d_ophyd.cluster import acquire_on
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.sources.file import FileSource
from live4d_ophyd.testing.small_dcu import frames

GRID = ScanGrid(4, 5)
DISK = Disk("vbf", center=(12, 16), radius=6)
METHODS = [DISK, CenterOfMass("com", DISK), MeanPattern()]


@pytest.fixture(autouse=True)
def few_frames(monkeypatch):
    monkeypatch.setattr(cluster, "_FEWEST_FRAMES", 1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return recorded_file(tmp_path_factory.mktemp("cluster") / "a.h5", frames(20), GRID, lost=(3, 11))


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed", reason="needs dask.distributed: the extra 'cluster'")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.mark.timeout(300)
def test_several_processes_give_the_images_of_one(path, client):
    """The address of a scheduler."""
    expected = reprocess(path, METHODS, backend="cpu", quiet=True)
    found = reprocess(path, METHODS, backend="cpu", quiet=True, cluster=client.scheduler.address)
    for name, image in expected.outputs.items():
        np.testing.assert_array_equal(found.outputs[name], image, err_msg=name)
    assert found.losses == expected.losses
    assert found.losses.lost == 2


@pytest.mark.timeout(300)
def test_a_method_that_workers_cannot_import_is_named(path, client, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(
        "from dataclasses import dataclass\nfrom live4d_ophyd import MeanPattern\n"
        "@dataclass(frozen=True)\nclass Here(MeanPattern):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from only_here import Here

    with pytest.raises(
        NoMethod, match=r"on a worker, the method 'only_here:Here' .*No module named 'only_here'.*install"
    ):
        reprocess(path, [Here()], backend="cpu", quiet=True, cluster=client)


@pytest.mark.timeout(300)
def test_errors_of_tasks_keep_their_class_and_words(path, client):
    with pytest.raises(ValueError, match=r"vbf.*no pixel on a frame"):
        reprocess(path, [Disk("vbf", center=(500, 16), radius=6)], backend="cpu", quiet=True, cluster=client)
    request = AcquisitionRequest(FileSource(("/nowhere/a.h5",)), GRID, METHODS)
    with pytest.raises(ClusterFailed, match=r"a worker does not see /nowhere/a\.h5: files must be where all"):
        acquire_on(client, request, "cpu", quiet=True)


def test_a_number_is_so_many_processes_here(path, client, monkeypatch):
    asked = []

    def local(**options):
        asked.append(options)
        return nullcontext(client.cluster)

    monkeypatch.setattr("distributed.LocalCluster", local)
    assert reprocess(path, [DISK], backend="cpu", quiet=True, cluster=3).losses.received == 18
    assert (asked[0]["n_workers"], asked[0]["threads_per_worker"]) == (3, 1)


@pytest.mark.timeout(300)
def test_a_worker_that_dies_costs_time_and_nothing_else(path, client, tmp_path):
    method = Dying("pattern", mark=str(tmp_path / "died"))
    found = reprocess(path, [DISK, method], backend="cpu", quiet=True, cluster=client)
    assert (tmp_path / "died").exists()
    expected = reprocess(path, [DISK, MeanPattern()], backend="cpu", quiet=True)
    for name, image in expected.outputs.items():
        np.testing.assert_array_equal(found.outputs[name], image, err_msg=name)
    assert found.losses == expected.losses
    client.wait_for_workers(2, timeout=100)


@pytest.mark.timeout(300)
def test_workers_that_die_again_and_again_are_an_error(path, client, monkeypatch):
    monkeypatch.setattr(client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(
        ClusterFailed, match=r"frames 0 to .*: the workers that took them died, tcp://.* the last: "
    ):
        reprocess(path, [Dying("pattern")], ScanGrid(1, 20), backend="cpu", quiet=True, cluster=client)


@pytest.mark.parametrize("wrong", ["host", 0, True, 2.0])
def test_what_is_no_cluster_is_refused(path, wrong):
    pytest.importorskip("distributed", reason="needs dask.distributed: the extra 'cluster'")
    with pytest.raises(ValueError, match="expected the address of a scheduler, tcp://host:8786, a number"):
        reprocess(path, [DISK], quiet=True, cluster=wrong)


def test_a_scheduler_that_does_not_answer_is_named(path, monkeypatch):
    pytest.importorskip("distributed", reason="needs dask.distributed: the extra 'cluster'")
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    with pytest.raises(
        ClusterFailed, match=r"no scheduler answers at tcp://127\.0\.0\.1:9: .*start `dask scheduler`"
    ):
        reprocess(path, [DISK], quiet=True, cluster="tcp://127.0.0.1:9")


def test_without_dask_the_command_that_installs_it_is_said(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterFailed, match=r"pip install 'live4d-ophyd\[cluster\]'"):
        reprocess(path, [DISK], quiet=True, cluster=2)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ("0.0.1", "has live4d-ophyd 0.0.1; here is"),
        (PackageNotFoundError("live4d-ophyd"), r"has no live4d-ophyd \("),
    ],
)
def test_workers_with_another_version_are_named(theirs, words):
    client = SimpleNamespace(run=lambda *_, **__: {"tcp://far:1": theirs})
    with pytest.raises(ClusterFailed, match=f"the worker tcp://far:1 {words}.*pip install"):
        cluster._check_versions(client)


class Deserted:
    """A client of a scheduler whose workers have gone; a future of its that is never done."""

    def submit(self, *_, **__):
        return Deserted()

    def done(self):
        return False

    def nthreads(self):
        return {}

    def cancel(self, futures):
        pass


def test_a_cluster_that_all_workers_have_left_is_named(monkeypatch):
    pytest.importorskip("distributed", reason="needs dask.distributed: the extra 'cluster'")

    def wait(futures, **_):
        raise TimeoutError

    monkeypatch.setattr("distributed.wait", wait)
    monkeypatch.setattr(cluster, "WORKERS_S", 0.0)
    with pytest.raises(ClusterFailed, match="all workers have gone, 2 of 2 parts are missing"):
        list(cluster._gathered(Deserted(), b"", "cpu", [(0, 5), (5, None)]))
