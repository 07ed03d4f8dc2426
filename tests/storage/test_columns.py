"""What a column or an array holds: every value as it is, or a refusal that names both types or shapes."""

import datetime
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from live4d_ophyd.storage.columns import Array, Column, Refused

NAN = math.nan


def column(declared, *values):
    """The column's type after these values, and what is stored of the last one."""
    kind = Column.of({"dtype": declared})
    stored = None
    for value in values:
        kind, stored = kind.holding(value)
    return kind.type, stored


@pytest.mark.parametrize(
    ("declared", "values", "kind", "stored"),
    [
        ("integer", [0, 12.5], float, 12.5),
        ("integer", [3, 4], int, 4),
        ("integer", [2**62 + 1], int, 2**62 + 1),
        ("number", [0], float, 0.0),
        ("integer", [5, NAN], float, NAN),
        ("integer", [5, None], float, NAN),
        ("integer", [None, 5], float, 5.0),
        ("integer", [5, math.inf], float, math.inf),
        ("integer", [2**64], float, 2.0**64),
        ("number", [2.5, 2**53], float, 2.0**53),
        ("boolean", [True], bool, True),
        ("boolean", [True, 5], int, 5),
        ("boolean", [True, 0.5], float, 0.5),
        ("boolean", [True, None], float, NAN),
        ("integer", [5, True], int, 1),
        ("string", ["a", "a longer one"], str, "a longer one"),
        ("string", [None, "a"], str, "a"),
        ("string", ["a", None], str, None),
        ("string", [5], int, 5),  # a device that describes its number as text
        ("number", ["a"], str, "a"),
        ("number", [np.float32(0.5), 0.1], float, 0.1),
        ("integer", [np.int8(5), 300], int, 300),
        ("integer", [np.array(5)], int, 5),
        ("boolean", [np.bool_(True)], bool, True),
        ("string", [np.str_("a")], str, "a"),
        ("number", [Fraction(1, 4)], float, 0.25),
    ],
)
def test_a_column_has_the_narrowest_type_that_holds_its_values(declared, values, kind, stored):
    found = column(declared, *values)
    np.testing.assert_equal(found, (kind, stored))
    assert stored is None or type(found[1]) is kind


@pytest.mark.parametrize(
    ("declared", "values", "told"),
    [
        ("integer", [5, "x"], ["'x' is text", "whole numbers (int64)", "another key or stream"]),
        ("string", ["x", 5], ["5 is a whole number (int)", "hold text"]),
        ("integer", [2**53 + 1, 0.5], ["0.5, a number (float)", "float64", str(2**53 + 1), "rounded"]),
        ("integer", [0.5, 2**53 + 1], ["float64", str(2**53 + 1)]),
        ("integer", [2**53 + 1, None], ["float64", str(2**53 + 1)]),
        ("integer", [2**63 + 1], [str(2**63 + 1), "rounded", "text"]),
        ("integer", [10**400], ["rounded"]),
        ("number", [1 + 2j], ["(1+2j)", "complex", "one number, text or true/false"]),
        ("number", [[1, 2]], ["[1, 2]", "list", "dtype 'array'"]),
        ("number", [np.array([1, 2])], ["shape (2,)", "dtype 'array'"]),
        ("string", [b"x"], ["bytes"]),
        ("string", [datetime.date(2026, 1, 2)], ["date"]),
        ("number", [Decimal("0.1")], ["Decimal"]),
        ("number", [Fraction(1, 3)], ["Fraction"]),
        ("number", [{"a": 1}], ["dict"]),
        ("string", ["\udce9"], ["surrogates"]),
    ],
)
def test_what_would_be_stored_as_something_else_is_refused(declared, values, told):
    with pytest.raises(Refused) as refused:
        column(declared, *values)
    for part in told:
        assert part in str(refused.value)


def array(data_key, *values):
    """The last of these values as it is stored."""
    kind = Array.of({"dtype": "array", **data_key})
    stored = None
    for value in values:
        kind, stored = kind.holding(value)
    return stored


IMAGE = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("data_key", "values", "dtype"),
    [
        ({"shape": [2], "dtype_numpy": "<i8"}, [[1, 2]], "<i8"),
        ({"shape": [2], "dtype_numpy": "<i8"}, [[2**60 + 1, 2]], "<i8"),
        ({"shape": [2]}, [[1, 2], [3.5, 4]], "<f8"),
        ({"shape": [2]}, [[True, False]], "<f8"),
        ({"shape": [2], "dtype_numpy": "|b1"}, [[True, False]], "|b1"),
        ({"shape": [2]}, [np.array([1, 2], ">i4")], "<f8"),
        ({"shape": [2]}, [np.array([1, 2**53], "<i8")], "<f8"),
        ({"shape": [2], "dtype_numpy": "<u8"}, [np.array([1, 2**64 - 1], "<u8")], "<u8"),
        ({"shape": [2, 3], "dtype_numpy": "<f4"}, [IMAGE], "<f4"),
        ({"shape": [2], "dtype_numpy": "<c16"}, [[1 + 2j, 3]], "<c16"),
        ({"shape": [2]}, [["a", "b"], ["a longer one", "b"]], "<U64"),
        ({"shape": [1]}, [["x" * 70]], "<U70"),
        ({"shape": [2], "dtype_numpy": "<U3"}, [["a", "abc"]], "<U3"),
        ({"shape": [None]}, [[1.0, 2.0]], "<f8"),
        ({"shape": [0]}, [[1.0, 2.0]], "<f8"),
        ({}, [[1.0, 2.0]], "<f8"),
    ],
)
def test_arrays_are_stored_element_by_element(data_key, values, dtype):
    stored = array(data_key, *values)
    assert stored.dtype == np.dtype(dtype)
    assert stored.tolist() == np.asarray(values[-1], dtype=object).tolist()


def test_what_json_made_of_nan_is_nan_again():
    stored = array({"shape": [2, 2], "dtype_numpy": "<f4"}, [[None, 0.1], [2, None]])
    np.testing.assert_array_equal(stored, np.array([[NAN, 0.1], [2, NAN]], "<f4"))


def test_an_image_of_the_described_type_is_not_copied():
    assert array({"shape": [2, 3], "dtype_numpy": "<f8"}, IMAGE) is IMAGE


def test_of_an_array_without_elements_there_is_nothing_to_store():
    assert array({"shape": [0]}, []) is Array.NOTHING
    with pytest.raises(Refused, match=r"shape \(1,\) came, and the Events before have shape \(0,\)"):
        array({"shape": [0]}, [], [1.0])


@pytest.mark.parametrize(
    ("data_key", "values", "told"),
    [
        ({"shape": [2, 3]}, [np.ones((4, 3))], ["(4, 3)", "descriptor says shape (2, 3)", "another stream"]),
        ({"shape": [2, 3]}, [IMAGE, np.ones((4, 3))], ["(4, 3)", "before have shape (2, 3)", "another"]),
        ({"shape": [2, 3]}, [np.ones(2)], ["(2,)", "(2, 3)"]),
        ({"shape": [None]}, [[1, 2], [1, 2, 3]], ["(3,)", "before have shape (2,)"]),
        ({"shape": [None, 3]}, [np.ones((2, 4))], ["(2, 4)", "(any, 3)"]),
        ({"shape": [2]}, [5.0], ["5.0, a number (float)", "(2,)"]),
        ({}, [5.0], ["5.0, a number (float)", "an array"]),
        ({"shape": [2]}, [None], ["None", "(2,)"]),
        ({"shape": [2], "dtype_numpy": "<i8"}, [[1, 3.5]], ["3.5, a number (float)", "int64", "dtype_numpy"]),
        ({"shape": [2], "dtype_numpy": "<i8"}, [[1, None]], ["None", "int64"]),
        ({"shape": [2], "dtype_numpy": "<i8"}, [np.array([1, NAN])], ["nan", "int64"]),
        ({"shape": [1], "dtype_numpy": "<i8"}, [[2**63]], [str(2**63), "int64"]),
        ({"shape": [1], "dtype_numpy": "<i8"}, [np.array([2**64 - 1], "u8")], [str(2**64 - 1), "int64"]),
        ({"shape": [1], "dtype_numpy": "|u1"}, [np.array([-1])], ["-1", "uint8"]),
        ({"shape": [1], "dtype_numpy": "|b1"}, [[2]], ["2", "bool"]),
        ({"shape": [1]}, [[2**53 + 1]], [str(2**53 + 1), "float64", "dtype_numpy"]),
        ({"shape": [1]}, [np.array([2**53 + 1])], [str(2**53 + 1), "float64"]),
        ({"shape": [2]}, [[0.5, 2**53 + 1]], [str(2**53 + 1), "float64"]),
        ({"shape": [1], "dtype_numpy": "<f4"}, [np.array([1e300])], ["1e+300", "float32"]),
        ({"shape": [2], "dtype_numpy": "<U3"}, [["a", "abcd"]], ["'abcd', text (str)", "<U3", "dtype_numpy"]),
        ({"shape": [1]}, [["a"], ["x" * 65]], ["text (str)", "<U64"]),
        ({"shape": [1]}, [["a"], [5]], ["5, a whole number (int)", "<U64"]),
        ({"shape": [1]}, [[5], ["a"]], ["'a', text (str)", "float64"]),
        ({"shape": [1]}, [["\udce9"]], ["text (str)", "<U64"]),
        ({"shape": [2]}, [[1 + 2j, 3]], ["(1+2j), of type complex", "float64"]),
        ({"shape": [2]}, [np.array([1 + 2j, 3])], ["(1+2j), of type complex", "float64"]),
        ({"shape": [2]}, [[[1, 2], [3]]], ["[1, 2], of type list", "rows are of one length"]),
        ({"shape": [1]}, [[b"a"]], ["bytes"]),
        ({"shape": [1]}, [np.array(["2026-01-02"], "M8[D]")], ["date"]),
        ({"shape": [1], "dtype_numpy": [["a", "<f8"]]}, [[(1.0,)]], ["(1, 1)", "(1,)"]),
    ],
)
def test_arrays_that_would_be_stored_as_something_else_are_refused(data_key, values, told):
    with pytest.raises(Refused) as refused:
        array(data_key, *values)
    for part in told:
        assert part in str(refused.value)
