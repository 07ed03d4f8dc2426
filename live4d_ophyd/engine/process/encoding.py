"""Encoding: frozen dataclasses to plain values and back, by their type hints alone, strictly.

In: dataclasses of bool, int, float, str, NumPy arrays, tuples, lists, mappings, unions and dataclasses of these. Out:
maps, lists and scalars for CBOR. A field that is added to a dataclass needs no change here. What comes back has every
field, no other, each of its type, or the error names the field: ``losses.bad is True; expected a whole number``.
Any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from cattrs import Converter
from cattrs.cols import homogenous_tuple_structure_factory, list_structure_factory
from cattrs.errors import AttributeValidationNote, BaseValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, mapping_structure_factory, override

from live4d_ophyd.checks import shown
from live4d_ophyd.engine.errors import AcquisitionError
from live4d_ophyd.engine.process import values
from live4d_ophyd.engine.process.values import Misfit

#: key of a value's class, where its field takes several
KIND = "kind"

T = TypeVar("T")


class Encoding:
    """Values to plain ones (`unstructure`) and back (`structure`).

    A field whose type is a union of dataclasses takes any of them, and says which by `KIND`, the name of the class.
    `by_kind` opens a field to classes that are not known here.
    """

    def __init__(self) -> None:
        self._converter = converter = Converter()
        for scalar, check in (
            (bool, values.boolean),
            (int, values.whole),
            (float, values.number),
            (str, values.text),
            (NoneType, values.nothing),
            (np.ndarray, values.array),
        ):
            converter.register_structure_hook(scalar, lambda value, _, check=check: check(value))
        converter.register_unstructure_hook(np.ndarray, values.array_to_map)
        converter.register_structure_hook_func(lambda hint: hint is Any, lambda value, _: values.plain(value))
        converter.register_unstructure_hook_func(lambda hint: hint is Any, values.to_plain)
        converter.register_structure_hook_factory(is_dataclass, self._dataclass_hook)
        for is_one, inner, wanted, words in (
            (_is_tuple, homogenous_tuple_structure_factory, list, "a list"),
            (_is_list, list_structure_factory, list, "a list"),
            (_is_mapping, _mapping_factory, dict, "a map"),
        ):
            converter.register_structure_hook_factory(is_one, self._only(inner, wanted, words))
        converter.register_structure_hook_factory(_is_fixed_tuple, self._fixed_tuple_hook)
        converter.register_structure_hook_factory(_is_union, self._union_hook)
        converter.register_unstructure_hook_factory(_is_tagged, self._tagging_hook)

    def by_kind(self, base: Any, kind_of: Callable[[Any], str], class_of: Callable[[str], type]) -> None:
        """Let fields of type ``base`` take any dataclass that has a kind.

        ``kind_of`` names the class of a value; ``class_of`` finds it again, and raises for a kind that is not known.
        """
        self._converter.register_structure_hook_func(
            lambda hint: hint is base, lambda value, _: self._of_kind(value, class_of)
        )
        self._converter.register_unstructure_hook_func(
            lambda hint: hint is base, lambda value: self.tagged(value, kind_of(value))
        )

    def tagged(self, value: Any, kind: str) -> dict[str, Any]:
        """The plain map of a dataclass, with its kind."""
        return {KIND: kind, **self._converter.unstructure(value, unstructure_as=type(value))}

    def unstructure(self, value: Any, hint: Any = None) -> Any:
        return self._converter.unstructure(value, unstructure_as=hint)

    def structure(self, value: Any, hint: type[T]) -> T:
        """The value of this type. Raises ValueError that names the field; an AcquisitionError, of a class or
        `by_kind`, passes."""
        try:
            return self._converter.structure(value, hint)
        except Exception as error:
            path, leaf = _first(error, "")
            if isinstance(leaf, AcquisitionError):
                raise leaf from None
            if isinstance(leaf, Misfit):
                raise ValueError(f"{path or 'it'} {leaf}") from None
            raise ValueError(f"{path}: {leaf}" if path else str(leaf)) from None

    def _dataclass_hook(self, cls: Any) -> Callable[[Any, Any], Any]:
        hints = get_type_hints(cls)
        overrides = {
            f.name: override(struct_hook=lambda value, _: values.number(value, nan=True))
            for f in fields(cls)
            if hints[f.name] is float and _may_be_nan(f)
        }
        inner: Any = make_dict_structure_fn(cls, self._converter, **overrides)  # type: ignore[arg-type]
        names = [f.name for f in fields(cls) if f.init]

        def structure(value: Any, _: Any) -> Any:
            values.check_names(value, names)
            return inner(value, cls)

        return structure

    def _only(self, inner: Any, wanted: type, words: str) -> Callable[[Any], Any]:
        def factory(hint: Any) -> Callable[[Any, Any], Any]:
            structure = inner(hint, self._converter)

            def checked(value: Any, _: Any) -> Any:
                if type(value) is not wanted:
                    raise Misfit(f"is {shown(value)}; expected {words}")
                return structure(value, hint)

            return checked

        return factory

    def _fixed_tuple_hook(self, hint: Any) -> Callable[[Any, Any], Any]:
        members = get_args(hint)

        def structure(value: Any, _: Any) -> Any:
            if type(value) is not list or len(value) != len(members):
                raise Misfit(f"is {shown(value)}; expected a list of {len(members)}")
            return tuple(self._converter.structure(item, kind) for item, kind in zip(value, members))

        return structure

    def _union_hook(self, hint: Any) -> Callable[[Any, Any], Any]:
        members = [kind for kind in get_args(hint) if kind is not NoneType]
        optional = len(members) < len(get_args(hint))
        classes: dict[str, Any] = {class_name(kind): kind for kind in members if is_dataclass(kind)}
        others = [kind for kind in members if not is_dataclass(kind)]
        words = " or ".join(_in_words(kind) for kind in get_args(hint))

        def structure(value: Any, _: Any) -> Any:
            if value is None and optional:
                return None
            if len(members) == 1:
                return self._converter.structure(value, members[0])
            if classes and (isinstance(value, dict) or not others):
                return self._of_kind(value, lambda kind: _one_of(kind, classes))
            for kind in others:
                try:
                    return self._converter.structure(value, kind)
                except Exception:  # the next may take it
                    continue
            raise Misfit(f"is {shown(value)}; expected {words}")

        return structure

    def _tagging_hook(self, hint: Any) -> Callable[[Any], Any]:
        classes = [kind for kind in get_args(hint) if is_dataclass(kind)]

        def unstructure(value: Any) -> Any:
            if type(value) in classes:
                return self.tagged(value, class_name(type(value)))
            return self._converter.unstructure(value)

        return unstructure

    def _of_kind(self, value: Any, class_of: Callable[[str], type]) -> Any:
        if type(value) is not dict or type(value.get(KIND)) is not str:
            raise Misfit(f"is {shown(value)}; expected a map that says its {KIND}")
        rest = {name: content for name, content in value.items() if name != KIND}
        return self._converter.structure(rest, class_of(value[KIND]))


# Types -------------------------------------------------------------------------------------------


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _is_tagged(hint: Any) -> bool:
    return _is_union(hint) and sum(is_dataclass(kind) for kind in get_args(hint)) > 1


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[-1:] == (...,)


def _is_fixed_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple and get_args(hint)[-1:] != (...,)


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, Sequence)


def _is_mapping(hint: Any) -> bool:
    return get_origin(hint) in (dict, Mapping)


def _mapping_factory(hint: Any, converter: Converter) -> Any:
    return mapping_structure_factory(hint, converter, structure_to=dict)


def _may_be_nan(of: Field) -> bool:
    """NaN is a value of those fields whose default it is: they say with it that something is not known."""
    return of.default is not MISSING and isinstance(of.default, float) and math.isnan(of.default)


_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None",
    np.ndarray: "an array", list: "a list", tuple: "a list", dict: "a map", Mapping: "a map", Sequence: "a list",
}  # fmt: skip


def _in_words(hint: Any) -> str:
    return _WORDS.get(get_origin(hint) or hint) or class_name(hint)


def class_name(kind: Any) -> str:
    return str(kind.__name__)


def _one_of(kind: str, classes: Mapping[str, type]) -> type:
    if kind not in classes:
        raise Misfit(f"is of kind {shown(kind)}; expected {', '.join(classes)}")
    return classes[kind]


# Errors ------------------------------------------------------------------------------------------


def _first(error: BaseException, path: str) -> tuple[str, BaseException]:
    """The first of the errors that were found, and the path to its field: ``control.url``, ``methods[1].radius``."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            path = f"{path}.{note.name}" if path else note.name
        elif isinstance(note, IterableValidationNote):
            path = f"{path}[{note.index!r}]"
    if isinstance(error, BaseValidationError) and error.exceptions:
        return _first(error.exceptions[0], path)
    return path, error
