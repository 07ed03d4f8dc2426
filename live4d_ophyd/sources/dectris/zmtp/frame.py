"""The frame of ZMTP 3: one byte of flags, a length of one byte or of eight, the content."""

from __future__ import annotations

#: flags: another part of the message follows; the length has eight bytes; not a message but a command
MORE, LONG, COMMAND = 1, 2, 4
#: longest command that is taken; libzmq's own have less than 100 bytes
MAX_COMMAND_BYTES = 8192
