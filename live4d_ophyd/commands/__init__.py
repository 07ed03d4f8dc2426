"""The commands of `live4d`: `main` finds them, one file a command or group of commands."""
