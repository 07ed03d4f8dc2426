"""The two files of a run: whatever is in a document comes back, and what is damaged is said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from live4d_ophyd.storage.journal import Journal, arrays_of, documents

START = ("start", {"uid": "12345", "time": 1.0e9})
KEYS = {
    key: {"dtype": kind, "shape": [], "source": "s"} for key, kind in (("image", "array"), ("n", "number"))
}
DESCRIPTOR = (
    "descriptor",
    {"uid": "d", "run_start": "12345", "time": 1.0e9, "name": "primary", "data_keys": KEYS},
)


def event(image, number=1):
    data = {"image": image, "n": number}
    times = dict.fromkeys(data, 1.0)
    return (
        "event",
        {
            "uid": f"e{number}",
            "descriptor": "d",
            "time": 1.0,
            "seq_num": number,
            "data": data,
            "timestamps": times,
        },
    )


def read(path):
    with path.open("rb") as lines:
        return list(documents(path, lines))


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "backup" / "12345.jsonl")
    yield journal
    journal.close()


@pytest.mark.parametrize(
    "image",
    [
        np.array([[np.nan, np.inf], [-np.inf, -0.0]]),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(7.5),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
        np.array([True, False]),
        np.array([2**64 - 1], "<u8"),
        np.arange(3, dtype=">i2"),
    ],
    ids=lambda image: f"{image.dtype.str}{image.shape}",
)
def test_arrays_come_back_as_they_were(journal, image):
    for document in (START, DESCRIPTOR, event(image), event(np.array(image), 2)):
        journal.append(*document)
    start, descriptor, first, second = read(journal.path)
    assert (start, descriptor) == (START, DESCRIPTOR)
    found = first[1]["data"]["image"]
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)
    assert found.tobytes() == image.tobytes()  # -0.0, too
    assert first[1]["data"]["n"] == 1
    np.testing.assert_array_equal(second[1]["data"]["image"], image)


def test_documents_without_arrays_need_one_file(journal):
    for document in (START, DESCRIPTOR, event(3.0)):
        journal.append(*document)
    assert [path.name for path in journal.path.parent.iterdir()] == ["12345.jsonl"]
    journal.remove()
    assert not journal.path.parent.exists()


def test_both_files_are_removed(journal):
    for document in (START, DESCRIPTOR, event(np.ones(3))):
        journal.append(*document)
    assert arrays_of(journal.path).exists()
    journal.remove()
    assert not journal.path.parent.exists()


def test_an_array_whose_document_cannot_be_written_leaves_no_bytes(journal):
    for document in (START, DESCRIPTOR, event(np.ones(3))):
        journal.append(*document)
    with pytest.raises(TypeError):
        journal.append(*event(np.ones(5), {1, 2}))
    assert arrays_of(journal.path).stat().st_size == 24
    journal.append(*event(np.full(3, 2.0), 2))
    assert read(journal.path)[-1][1]["data"]["image"].tolist() == [2.0] * 3


@pytest.mark.parametrize("left", [0, 31, None])
def test_arrays_that_are_not_all_there_cost_their_events(journal, left):
    """As after a power failure: the file of lines reached the disk, the other did not."""
    for document in (START, DESCRIPTOR, event(np.ones(3)), event(np.ones(2), 2)):
        journal.append(*document)
    arrays = arrays_of(journal.path)
    if left is None:
        arrays.unlink()
    else:
        arrays.write_bytes(arrays.read_bytes()[:left])
    kinds = [document and document[0] for document in read(journal.path)]
    assert kinds == ["start", "descriptor", "event" if left == 31 else None, None]


@pytest.mark.parametrize(
    "place",
    [
        {"__array__": -8, "dtype": "<f8", "shape": [1]},
        {"__array__": 0, "dtype": "<f8", "shape": [-1]},
        {"__array__": 0, "dtype": "<f8", "shape": [1 << 60]},
        {"__array__": 0, "dtype": "O", "shape": [1]},
        {"__array__": 0, "dtype": "nonsense", "shape": [1]},
        {"__array__": "0", "dtype": "<f8", "shape": [1]},
        {"__array__": 0},
    ],
)
def test_a_place_that_is_none_costs_its_event_and_no_memory(journal, place):
    for document in (START, DESCRIPTOR, event(np.ones(3)), event(place, 2)):
        journal.append(*document)
    assert read(journal.path)[-1] is None


@given(
    image=st_numpy.arrays(
        st.one_of(st_numpy.integer_dtypes(), st_numpy.floating_dtypes(), st_numpy.boolean_dtypes()),
        st_numpy.array_shapes(max_dims=3, max_side=4),
    )
)
def test_any_array_comes_back_bit_for_bit(tmp_path_factory, image):
    journal = Journal(tmp_path_factory.mktemp("journal") / "12345.jsonl")
    for document in (START, DESCRIPTOR, event(image)):
        journal.append(*document)
    journal.close()
    found = read(journal.path)[-1][1]["data"]["image"]
    assert (found.dtype, found.shape, found.tobytes()) == (image.dtype, image.shape, image.tobytes())
