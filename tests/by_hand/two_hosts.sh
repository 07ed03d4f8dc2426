#!/usr/bin/env bash
# Two hosts on this machine, in network namespaces: `microscope` with detector (in software) and engine, `desk` with the
# session, and a link of 10 MB/s and 20 ms there and back between them. Follows docs/how-to/engine-on-another-host.md: keys,
# scp, unit, engine, the control unit's port lent by ssh and socat, doctor, session. systemd itself does not run here: it
# checks the unit, whose command is then started as it stands there.
# Needs root, iproute2, sshd, socat, systemd-analyze, and `live4d` on the PATH. Prints what each step said; the last line says
# whether the image came.
set -euo pipefail
page=$(cd "$(dirname "$0")/../.." && pwd)/docs/how-to/engine-on-another-host.md
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
there=$work/microscope # the home of who works on gpu-host
mkdir -p "$there/live4d/.venv/bin" /run/sshd
for key in host user; do ssh-keygen -q -t ed25519 -N '' -f "$work/$key"; done
cat >"$work/sshd_config" <<EOF
HostKey $work/host
AuthorizedKeysFile $work/user.pub
StrictModes no
PidFile none
Subsystem sftp internal-sftp -d $there
EOF
cat >"$work/ssh_config" <<EOF
Host *
    IdentityFile $work/user
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
EOF
on microscope /usr/sbin/sshd -f "$work/sshd_config"
until on desk bash -c '</dev/tcp/gpu-host/22' 2>/dev/null; do sleep 0.1; done
scp() { on desk scp -F "$work/ssh_config" "$@"; }
ssh() { on desk ssh -F "$work/ssh_config" "$@"; }
scp -rp ~/live4d-keys/engine gpu-host:live4d-keys && rm ~/live4d-keys/engine/server.key_secret
ls -l "$there/live4d-keys"

echo "== the unit, at the microscope"
ln -s "$(command -v live4d)" "$there/live4d/.venv/bin/live4d"
unit=$there/.config/systemd/user/live4d-engine.service
mkdir -p "$(dirname "$unit")"
sed -n '/^```ini/,/^```$/p' "$page" | grep -v '^```' >"$unit"
HOME=$there XDG_RUNTIME_DIR=$work systemd-analyze --user verify "$unit" && echo "systemd finds no fault in it"
serve=$(sed -n "s|^ExecStart=||p" "$unit" | sed "s|%h|$there|g; s|:31100|:31101|")

echo "== detector and engine, at the microscope"
on microscope live4d sim --rest-port 80 --stream-port 31001 --rows 64 --cols 64 --host 0.0.0.0 >"$work/sim.log" 2>&1 &
HOME=$there on microscope $serve --backend cpu >"$work/engine.log" 2>&1 &
ssh -N -L 8080:dcu:80 gpu-host &
on microscope socat TCP-LISTEN:8080,bind=127.0.0.1,fork TCP:dcu:80 &
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
    control=Simplon("http://localhost:8080"), server="tcp://gpu-host:31100", curve_keys="~/live4d-keys/session",
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
