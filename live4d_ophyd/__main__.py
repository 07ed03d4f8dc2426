"""`python -m live4d_ophyd`: the `live4d` command."""

from live4d_ophyd.cli import main

main()
