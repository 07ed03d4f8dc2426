"""What of the GPU's path needs its packages but no GPU: kernels compile, errors are named, torch's arrays will do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from live4d_ophyd.decode import FrameFormat, Saturation
from live4d_ophyd.decode.errors import BackendUnavailable, GpuError, GpuLost, GpuMemoryError
from live4d_ophyd.decode.gpu.nvcomp import NvcompCallError, NvcompError
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    from live4d_ophyd.decode.gpu import kernels as cuda_kernels

    return cuda_kernels


@pytest.fixture(scope="module")
def gpu(kernels):
    from live4d_ophyd.decode.gpu import named_errors as gpu

    return gpu


# Turing, A100, Orin, Ada, Hopper, Blackwell
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_87", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_the_kernels_compile_for_every_gpu_of_today(kernels, architecture):
    names = [kernels.weigh_name("uint16", "float64", "int64"), kernels.add_frames_name("uint16")]
    compiled = kernels.compile_kernels(names, architecture)
    for name in (*kernels._PLAIN, "weigh_uint16_float64_int64", "add_frames_uint16"):
        assert name.encode() in compiled.code


def test_kernels_compile_for_all_pixels_and_sums(kernels):
    names = [
        kernels.weigh_name(*kinds) for kinds in itertools.product(kernels.PIXELS, kernels.SUMS, kernels.SUMS)
    ]
    names += map(kernels.add_frames_name, kernels.PIXELS)
    code = kernels.compile_kernels(names, "sm_90").code
    assert [name for name in names if name.encode() not in code] == []


@pytest.mark.parametrize(
    ("error", "named", "words"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), GpuMemoryError, r"\(1 of 2 MiB free\)"),
        (RuntimeError("cudaHostAlloc: out of memory"), GpuMemoryError, "no pinned memory left"),
        (NvcompCallError("nvcompX", 1000), GpuLost, "nvcompX failed with nvcompStatus_t 1000"),
        (NvcompCallError("nvcompX", 10), GpuError, "nvcompX failed with nvcompStatus_t 10"),
        (NvcompError("not installed"), GpuError, "not installed"),
        (RuntimeError("CUDA error: illegal address\nmore"), GpuLost, "the GPU failed: CUDA error: illegal address;"),
        (BackendUnavailable("said already"), BackendUnavailable, "^said already$"),
        (ValueError("of ours"), ValueError, "^of ours$"),
    ],
)  # fmt: skip
def test_what_cuda_torch_and_nvcomp_raise_is_named(gpu, monkeypatch, error, named, words):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1 << 20, 2 << 20))
    with pytest.raises(named, match=words) as raised, gpu.named_errors():
        raise error
    assert type(raised.value) is named


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("nodata", [True, False])
def test_a_mean_pattern_of_torch_s_arrays_is_that_of_numpy_s(dtype, nodata):
    rng = np.random.default_rng(5)
    frames = rng.integers(0, 200, (12, 7, 9)).astype(dtype)
    frames[rng.random(frames.shape) < 0.2] = np.iinfo(dtype).max
    frames[:, 3, 4] = np.iinfo(dtype).max
    limit = Saturation(nodata).limit(np.dtype(dtype))
    series = SeriesInfo((1, 0), FrameFormat(7, 9, np.dtype(dtype)), saturation=limit)
    grid, means = ScanGrid(3, 4), []
    for pixels, device in ((frames, None), (torch.from_numpy(frames), torch.device("cpu"))):
        accumulator = MeanPattern().accumulator(series, grid, device)
        accumulator.add(np.arange(12), pixels)
        means.append(MeanPattern().results(series, grid, [accumulator])["pattern"])
    np.testing.assert_array_equal(*means)


def test_images_of_torch_s_arrays_are_merged_to_a_copy_on_the_host():
    grid, device = ScanGrid(2, 3), torch.device("cpu")
    one, other = Scatter(grid, 1, device), Scatter(grid, 1, device)
    one.add(torch.tensor([0, 2]), torch.tensor([[1], [3]]))
    other.add(torch.tensor([1]), torch.tensor([[2.5]]))
    merged = Scatter.merged([one, other], grid, 1)
    np.testing.assert_array_equal(merged.reshape(-1), [1, 2.5, 3, np.nan, np.nan, np.nan])
    for parts in ([one], [one, other]):
        Scatter.merged(parts, grid, 1)[:] = 9
    np.testing.assert_array_equal(one.values.numpy()[0], [1, np.nan, 3, np.nan, np.nan, np.nan])
