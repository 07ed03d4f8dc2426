"""`python -m live4d_ophyd`: the `live4d` command."""

from live4d_ophyd.commands.main import main

main()
