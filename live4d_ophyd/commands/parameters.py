"""Types of the commands' options: a shape, and several numbers in one."""

from __future__ import annotations

from typing import Any

import click

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
        if len(numbers) != len(self.name.split(",")):
            self.fail(f"{value!r} is not {self.name}, for example {self._example}", param, ctx)
        return numbers
