"""Which engine is taken, and why; without a GPU the reason says what to do."""

import sys
import types

import numpy as np
import pytest

from live4d_ophyd.decode import (
    BackendUnavailable,
    CpuBackend,
    FrameFormat,
    Saturation,
    backend,
    choose_backend,
)
from live4d_ophyd.decode.errors import GpuLost, GpuMemoryError
from live4d_ophyd.decode.gpu import install as cuda_install


def torch_of(cuda: str | None, available: bool):
    torch = types.ModuleType("torch")
    torch.__version__ = "2.11.0"
    torch.version = types.SimpleNamespace(cuda=cuda)
    torch.cuda = types.SimpleNamespace(is_available=lambda: available)
    return torch


def test_the_cpu_is_taken_when_asked_for():
    chosen = choose_backend("cpu")
    assert (chosen.name, chosen.in_flight) == ("cpu", 0)
    decoder = chosen.decoder(FrameFormat(4, 4, np.dtype("<u2")), saturation=Saturation())
    assert decoder.backend == "cpu"


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="backend is 'tpu'; it is one of auto, cpu, gpu"):
        choose_backend("tpu")


@pytest.mark.parametrize(
    ("torch", "reason"),
    [
        (None, r"pip install 'live4d-ophyd\[gpu\]'"),
        (
            torch_of(None, False),
            r"built without CUDA: pip uninstall -y torch .* && pip install 'live4d-ophyd\[gpu\]'",
        ),
        (torch_of("13.0", False), "sees no NVIDIA GPU"),
    ],
)
def test_without_a_gpu_auto_takes_the_cpu_and_says_why(monkeypatch, torch, reason):
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(cuda_install, "driver_cuda", lambda: (13, 0))
    with pytest.raises(BackendUnavailable, match=reason):
        choose_backend("gpu")
    chosen = choose_backend("auto")
    assert chosen.name == "cpu"
    assert chosen.detail.startswith("no GPU: ")


def test_a_driver_too_old_for_torch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_of("13.0", False))
    monkeypatch.setattr(cuda_install, "driver_cuda", lambda: (12, 4))
    with pytest.raises(BackendUnavailable, match=r"built for CUDA 13.0, the driver takes CUDA 12.4 at most"):
        choose_backend("gpu")


class FailingGpu(backend.GpuBackend):
    """A GPU whose decoders cannot be made."""

    def __init__(self, fallback, error=None):
        self._fallback = fallback
        self._error = error or GpuMemoryError("the GPU's memory is full")
        self._gpu = types.SimpleNamespace(GpuDecoder=self._fail)
        self._nvcomp = self._kernels = None
        self._device, self.detail = 0, "failing"
        self._streams = []

    def _fail(self, *_, **__):
        raise self._error


def test_auto_decodes_a_series_on_the_cpu_when_the_gpu_cannot(caplog):
    frame = FrameFormat(4, 4, np.dtype("<u2"))
    decoder = FailingGpu(CpuBackend()).decoder(frame, saturation=Saturation())
    assert decoder.backend == "cpu"
    assert "the CPU decodes this series: the GPU's memory is full" in caplog.text
    with pytest.raises(GpuMemoryError):
        FailingGpu(None).decoder(frame, saturation=Saturation())


def test_a_lost_gpu_is_not_hidden_behind_the_cpu():
    with pytest.raises(GpuLost):
        FailingGpu(CpuBackend(), GpuLost("gone")).decoder(
            FrameFormat(4, 4, np.dtype("<u2")), saturation=Saturation()
        )


class _TakenMeanwhile(list):
    """The last stream of the pool goes to another thread as soon as somebody looks."""

    def __len__(self):
        length = super().__len__()
        self.clear()
        return length


class _GpuDecoder:
    def __init__(self, *_, stream, **__):
        self.stream = stream or "new"


def test_a_stream_that_another_thread_takes_first_is_not_missed():
    gpu = FailingGpu(None)
    gpu._gpu = types.SimpleNamespace(GpuDecoder=_GpuDecoder)
    gpu._streams = _TakenMeanwhile(["stream"])
    decoder = gpu.decoder(FrameFormat(4, 4, np.dtype("<u2")), saturation=Saturation())
    assert decoder.stream in ("stream", "new")


def test_a_stream_whose_decoder_cannot_be_made_is_kept():
    gpu = FailingGpu(CpuBackend())
    gpu._streams = ["stream"]
    assert gpu.decoder(FrameFormat(4, 4, np.dtype("<u2")), saturation=Saturation()).backend == "cpu"
    assert gpu._streams == ["stream"]


def test_gpus_are_named_by_their_numbers():
    assert backend.devices_of("gpu:0,1") == (0, 1)
    assert backend.devices_of("gpu:12") == (12,)
    assert [backend.devices_of(name) for name in backend.BACKENDS] == [(), (), ()]


@pytest.mark.parametrize("name", ["gpu:", "gpu:x", "gpu:0,", "cpu:0", "gpu0", "", "GPU"])
def test_what_names_no_gpus_is_refused(name):
    with pytest.raises(ValueError, match="it is one of auto, cpu, gpu, or names GPUs: gpu:0,1"):
        choose_backend(name)


def test_lanes_go_to_gpus_in_turn():
    gpus = [FailingGpu(None), FailingGpu(None)]
    several = backend.SeveralGpus([*gpus])
    assert [several.of_lane(lane) for lane in range(4)] == [*gpus, *gpus]
