"""Types of the commands' options: a shape, several numbers in one, a backend."""

from __future__ import annotations

from typing import Any

import click

from live4d_ophyd.decode import devices_of
from live4d_ophyd.scan import parse_shape


class Shape(click.ParamType):
    """``256x256``, as (rows, columns)."""

    name = "ROWSxCOLS"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name  # click's own is in capitals

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_shape(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class BackendName(click.ParamType):
    """``auto``, ``cpu``, ``gpu``, or the GPUs by number: ``gpu:0,1``."""

    name = "BACKEND"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            devices_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Numbers(click.ParamType):
    """Numbers between commas, as many as ``form`` has names: ``ROW,COL,RADIUS``."""

    def __init__(self, form: str, example: str) -> None:
        self.name = form
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(map(float, value.split(",")))
        except ValueError:
            numbers = ()
        if not numbers or (not self.name.endswith("...") and len(numbers) != len(self.name.split(","))):
            self.fail(f"{value!r} is not {self.name}, for example {self._example}", param, ctx)
        return numbers
