"""The stream's wire protocol, ZMTP 3, spoken over a plain TCP socket: one connection without libzmq.

``handshake`` greets, ``traffic`` reads messages, ``ring`` holds them until they are taken, ``receiver`` connects.
libzmq does the rest: security, other transports, older peers.
"""

from live4d_ophyd.sources.dectris.zmtp.receiver import ZmtpReceiver

__all__ = ["ZmtpReceiver"]
