"""``describe``: everything needed to understand a run's images a year later, as a table and as plain values.

In: a run. Out: a `RunDescription` of sections of facts. What they say is in `sections`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

from live4d_ophyd.runs.facts import Fact
from live4d_ophyd.runs.find import opened
from live4d_ophyd.runs.readings import RunReadings
from live4d_ophyd.runs.sections import sections_of, sections_of_devices


class RunDescription(Mapping[str, Mapping[str, Fact]]):
    """Sections of facts: ``description["scan"]["step"].value``. Its repr is the table, in notebooks an HTML one."""

    def __init__(
        self,
        sections: Mapping[str, Mapping[str, Fact]],
        of_devices: Mapping[str, Mapping[str, Mapping[str, Fact]]],
    ) -> None:
        #: those of a device once more, by its name and their title without it
        self.of_devices = of_devices
        self._sections = {name: dict(facts) for name, facts in sections.items() if facts}

    def __getitem__(self, section: str) -> Mapping[str, Fact]:
        return self._sections[section]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """For JSON: ``{section: {name: {"value": ..., "unit": ..., "note": ..., "by_event": true}}}``; NaN is null."""
        return {
            section: {name: fact.plain() for name, fact in facts.items()} for section, facts in self.items()
        }

    def __repr__(self) -> str:
        width = max((len(name) for facts in self.values() for name in facts), default=0)
        lines = []
        for section, facts in self.items():
            lines.append(section)
            for name, fact in facts.items():
                first, *others = str(fact).splitlines() or [""]
                lines.append(f"  {name.replace('_', ' '):{width}}  {first}".rstrip())
                lines.extend(f"  {'':{width}}  {line}".rstrip() for line in others)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for section, facts in self.items():
            rows.append(f'<tr><th colspan="2" style="text-align:left">{html.escape(section)}</th></tr>')
            for name, fact in facts.items():
                shown = html.escape(str(fact)).replace("\n", "<br>")
                style = "text-align:left"
                rows.append(
                    f'<tr><td style="{style}">{html.escape(name.replace("_", " "))}</td>'
                    f'<td style="{style}">{shown}</td></tr>'
                )
        return f"<table>{''.join(rows)}</table>"


def describe(run: Any, *, catalog: str | None = None) -> RunDescription:
    """What a run is: plan, time, sample, scan, virtual detectors, beam, detector, losses, software.

    Parameters
    ----------
    run
        A run of a catalog, ``db[-1]``; or its uid, the first characters of that, its scan id, or -1.
    catalog
        Where a run that is not a client is looked up: Tiled profile, directory or Tiled server; default: the catalog
        that a session opens.

    Returns
    -------
    RunDescription
        Shows itself as a table; ``description["scan"]["step"].value`` and ``.unit``; ``description.to_dict()``.

    Raises
    ------
    NoSuchRun
        There is none, or several of that scan id.

    Examples
    --------
    >>> describe(db[-1])
    >>> describe(-1)["virtual detectors"]["vbf"].value["radius"]
    15.0
    """
    with opened(run, catalog) as client:
        return description_of(RunReadings(client))


def description_of(readings: RunReadings) -> RunDescription:
    """The description of what was read of a run."""
    of_devices = sections_of_devices(readings)
    return RunDescription(sections_of(readings, of_devices), of_devices)
