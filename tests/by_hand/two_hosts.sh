#!/usr/bin/env bash
# Two hosts on this machine, in network namespaces: `microscope` with detector (in software) and engine, `desk` with the
# session, and a link of 10 MB/s and 20 ms there and back between them. Follows docs/how-to/engine-on-another-host.md: keys, engine, doctor, session.
# Needs root, iproute2, and `live4d` on the PATH. Prints what each step said; the last line says whether the image came.
set -euo pipefail
work=$(mktemp -d)
export HOME=$work XDG_DATA_HOME=$work/data XDG_CONFIG_HOME=$work/config
hosts() { # the names that the page uses
    mkdir -p /etc/netns/desk /etc/netns/microscope
    printf '127.0.0.1 localhost\n10.99.0.1 gpu-host dcu\n10.99.0.2 desk\n' | tee /etc/netns/desk/hosts >/etc/netns/microscope/hosts
}
on() { ip netns exec "$@"; }
finish() {
    for host in microscope desk; do
        ip netns pids "$host" 2>/dev/null | xargs -r kill 2>/dev/null || true
    done
    ip netns del microscope 2>/dev/null || true
    ip netns del desk 2>/dev/null || true
    rm -rf /etc/netns/desk /etc/netns/microscope "$work"
}
trap finish EXIT
hosts
ip netns add microscope && ip netns add desk
ip link add m0 netns microscope type veth peer name d0 netns desk
for side in "microscope m0 10.99.0.1" "desk d0 10.99.0.2"; do
    set -- $side
    on "$1" ip addr add "$3/24" dev "$2"
    on "$1" ip link set "$2" up
    on "$1" ip link set lo up
    on "$1" tc qdisc add dev "$2" root tbf rate 80mbit burst 64kbit latency 400ms
done

echo "== keys, on the desk"
on desk live4d keys "$HOME/live4d-keys"
mkdir "$work/microscope" && cp -rp "$HOME/live4d-keys/engine" "$work/microscope/live4d-keys" # instead of scp
rm "$HOME/live4d-keys/engine/server.key_secret"

echo "== detector and engine, at the microscope"
on microscope live4d sim --rest-port 18765 --stream-port 31001 --rows 64 --cols 64 --host 0.0.0.0 >"$work/sim.log" 2>&1 &
(cd "$work/microscope" && exec ip netns exec microscope live4d serve tcp://0.0.0.0:31101 --curve live4d-keys --backend cpu) >"$work/engine.log" 2>&1 &
# Not every kernel can delay packets: this does, 10 ms each way, in front of the engine.
on microscope python - <<'EOF' &
import asyncio


async def carry(reader, writer):
    loop, late = asyncio.get_running_loop(), asyncio.Queue(64)

    async def deliver():
        while True:
            due, data = await late.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(data)
            await writer.drain()
            if not data:
                return writer.close()

    delivery = asyncio.create_task(deliver())
    while True:
        data = await reader.read(65536)
        await late.put((loop.time() + 0.01, data))
        if not data:
            return await delivery


async def meet(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", 31101)
    await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer), return_exceptions=True)


async def main():
    async with await asyncio.start_server(meet, "0.0.0.0", 31100) as server:
        await server.serve_forever()


asyncio.run(main())
EOF
until grep -q '"engine"' "$work/engine.log" && grep -q stream_endpoint "$work/sim.log"; do sleep 0.2; done

echo "== the doctor, on the desk"
on desk live4d doctor --server tcp://gpu-host:31100 --keys "$HOME/live4d-keys/session" || true

echo "== the session, on the desk"
on desk python - <<'EOF'
import time

import bluesky.plans as bp
import numpy as np
from bluesky import RunEngine

from live4d_ophyd import Disk, Live4D, ScanGrid, Simplon

live4d = Live4D(
    "tcp://dcu:31001", name="live4d", scan=ScanGrid(64, 64), methods=[Disk("vbf", radius=15)],
    control=Simplon("http://dcu:18765"), server="tcp://gpu-host:31100", curve_keys="~/live4d-keys/session",
)
events = []
RE = RunEngine({}, call_returns_result=False)
started = time.monotonic()
RE(bp.count([live4d]), lambda name, doc: events.append(doc["data"]) if name == "event" else None)
(data,) = events
print(data["live4d_frames_received"], "frames; image", data["live4d_vbf"].shape, "mean", round(float(np.nanmean(data["live4d_vbf"])), 1))
print(f"in {time.monotonic() - started:.1f} s")
live4d.close()
assert data["live4d_frames_received"] == 4096
print("the image came")
EOF
