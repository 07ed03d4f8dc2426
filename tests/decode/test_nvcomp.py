"""The ctypes view of nvCOMP agrees with its headers; a library that is missing or does not fit is named."""

import ctypes
import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest

from live4d_ophyd.decode.gpu import nvcomp
from live4d_ophyd.decode.gpu.nvcomp import Lz4Options, Nvcomp, NvcompError, ZstdOptions, lz4_options


def header(name: str) -> str:
    spec = importlib.util.find_spec("nvidia.libnvcomp") if importlib.util.find_spec("nvidia") else None
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("nvidia-libnvcomp is not installed: its headers cannot be compared")
    return (Path(next(iter(spec.submodule_search_locations))) / "include" / "nvcomp" / name).read_text()


def test_options_have_the_size_that_goes_by_value():
    assert ctypes.sizeof(Lz4Options) == 64
    assert ctypes.sizeof(ZstdOptions) == 64
    assert Lz4Options.bitshuffle_mode.offset == 12


@pytest.mark.parametrize(("elem_size", "kind"), [(1, 1), (2, 3), (4, 5)])
def test_unshuffling_names_the_element_type(elem_size, kind):
    options = lz4_options(elem_size)
    assert (options.backend, options.data_type, options.bitshuffle_mode) == (2, kind, 2)
    assert bytes(options)[16:] == bytes(48)


def test_without_unshuffling_nothing_but_the_backend_is_set():
    assert bytes(lz4_options()) == b"\x02" + bytes(63)


def test_the_headers_have_these_fields_and_values():
    lz4 = header("lz4.h")
    fields = re.search(r"typedef struct\s*{([^}]*)}\s*nvcompBatchedLZ4DecompressOpts_t", lz4)[1]
    names = re.findall(r"(\w+)(?:\[\d+\])?;", re.sub(r"/\*.*?\*/", "", fields, flags=re.S))
    assert names == [name for name, _ in Lz4Options._fields_]
    shared = header("shared_types.h")
    for name, value in {"BITSHUFFLE_LSB_FIRST": 2, "TYPE_UCHAR": 1, "TYPE_USHORT": 3, "TYPE_UINT": 5}.items():
        assert re.search(rf"NVCOMP_{name} = {value}\b", shared)
    assert re.search(r"NVCOMP_DECOMPRESS_BACKEND_CUDA = 2\b", shared)


def fake_library(version: int, cudart: int):
    def properties(pointer):
        pointer._obj.version, pointer._obj.cudart_version = version, cudart
        return 0

    return types.SimpleNamespace(nvcompGetProperties=properties)


def install(monkeypatch, library):
    package = types.ModuleType("nvidia.libnvcomp")
    package.load_library = lambda: library
    monkeypatch.setitem(sys.modules, "nvidia", types.ModuleType("nvidia"))
    monkeypatch.setitem(sys.modules, "nvidia.libnvcomp", package)


def test_a_fitting_library_says_its_version(monkeypatch):
    install(monkeypatch, fake_library(6000, 13000))
    assert Nvcomp(13).name == "6.0.0"
    install(monkeypatch, fake_library(5213, 12080))
    assert Nvcomp(12).name == "5.2.13"


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (fake_library(5100, 13000), r"nvCOMP 5\.1\.0 is installed, 5\.2 to 6 is needed"),
        (fake_library(7000, 13000), r"nvCOMP 7\.0\.0 is installed"),
        (
            fake_library(6000, 12080),
            r"built for CUDA 12, torch for CUDA 13: .* && pip install 'live4d-ophyd\[gpu\]'",
        ),
        (None, "not where its package should have it"),
    ],
)
def test_a_library_that_does_not_fit_is_refused_with_the_remedy(monkeypatch, library, message):
    install(monkeypatch, library)
    with pytest.raises(NvcompError, match=message):
        Nvcomp(13)


@pytest.mark.parametrize(("cuda", "extra"), [(12, "gpu12"), (13, "gpu")])
def test_a_missing_library_is_named(monkeypatch, cuda, extra):
    monkeypatch.setitem(sys.modules, "nvidia.libnvcomp", None)
    with pytest.raises(NvcompError, match=rf"pip install 'live4d-ophyd\[{extra}\]'"):
        Nvcomp(cuda)


def test_a_library_for_cuda_13_is_replaced_where_torch_is_for_cuda_12(monkeypatch):
    install(monkeypatch, fake_library(6000, 13000))
    with pytest.raises(
        NvcompError, match=r"built for CUDA 13, torch for CUDA 12: .* && pip install 'live4d-ophyd\[gpu12\]'"
    ):
        Nvcomp(12)


def test_a_call_that_fails_says_which_and_how(monkeypatch):
    library = fake_library(6000, 13000)
    library.nvcompBatchedLZ4DecompressGetTempSize = lambda *_: 10
    install(monkeypatch, library)
    with pytest.raises(NvcompError, match=r"GetTempSize failed with nvcompStatus_t 10"):
        Nvcomp(13).lz4_temp_bytes(1, 8192)


def test_version_5_has_the_temporary_size_under_another_name(monkeypatch):
    library = fake_library(5300, 13000)

    def temp_size(count, largest, options, size, total):
        size._obj.value = count.value * 7
        return nvcomp._SUCCESS

    library.nvcompBatchedLZ4DecompressGetTempSizeAsync = temp_size
    install(monkeypatch, library)
    assert Nvcomp(13).lz4_temp_bytes(3, 8192) == 21
