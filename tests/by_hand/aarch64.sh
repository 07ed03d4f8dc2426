#!/usr/bin/env bash
# The tests of decode, stream, imaging and acquisition on an emulated aarch64 processor. `make aarch64` runs it.
#   tests/by_hand/aarch64.sh [WORK] [PYTEST ARGUMENTS]     WORK (default out/aarch64) is made once, and kept
# Needs x86-64 Debian 12 or newer and its packages, as root; PyPI; uv beside $PYTHON. Installs nothing of aarch64 outside
# WORK. What it shows is that numbers are right there; it says nothing of speed.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-$checkout/out/aarch64}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- tests/decode tests/sources/dectris tests/imaging tests/engine/test_acquisition.py
mkdir -p "$work"/{site,tmp} && work=$(cd "$work" && pwd)

if ! command -v qemu-aarch64-static proot mmdebstrap > /dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends qemu-user-static proot mmdebstrap
fi

# Python of Debian 12. Unpacked only: nothing of it must run to be installed.
[ -x "$work/root/usr/bin/python3" ] || mmdebstrap --quiet --variant=extract --architectures=arm64 \
    --include=base-files,bash,coreutils,procps,util-linux,python3,libpython3.11,ca-certificates,tzdata,libgomp1,libstdc++6,zlib1g \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr bookworm "$work/root"
"${PYTHON:-python3}" -m uv pip install --quiet --upgrade --target "$work/site" --no-build \
    --python-platform aarch64-manylinux_2_36 --python-version 3.11 --requirements "$checkout/pyproject.toml" --extra dev

# In proot under qemu os.access() always answers no.
cat > "$work/site/sitecustomize.py" << 'END'
import os

os.access = lambda path, mode, **_: os.path.exists(path)
END
# Some hundred times slower than a processor: no deadlines, and few examples where a test does not say how many.
cat > "$work/site/emulated.py" << 'END'
from hypothesis import HealthCheck, settings

settings.register_profile("emulated", deadline=None, suppress_health_check=list(HealthCheck), max_examples=5)
settings.load_profile("emulated")
END
# LLVM reads the processor from here; numba would compile for "generic" without it. A Cortex-A78AE, as in an Orin.
for core in 0 1; do
    printf '%s\t: %s\n' processor $core BogoMIPS 62.50 \
        Features "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat ilrcpc flagm" \
        "CPU implementer" 0x41 "CPU architecture" 8 "CPU variant" 0x0 "CPU part" 0xd42 "CPU revision" 1
    echo
done > "$work/cpuinfo"

inside() {
    local captures=()
    [ -d "$checkout/../shared" ] && captures=(-b "$(cd "$checkout/../shared" && pwd):/shared")
    env -i PATH=/usr/bin:/bin HOME=/root TERM=dumb LANG=C.UTF-8 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
        PYTHONPATH=/site:/checkout NUMBA_CACHE_DIR=/tmp/numba QEMU_CPU=neoverse-n1 \
        proot -q qemu-aarch64-static -r "$work/root" -b /dev -b /proc -b /sys -b "$work/cpuinfo:/proc/cpuinfo" \
        -b "$work/site:/site" -b "$work/tmp:/tmp" -b "$checkout:/checkout" "${captures[@]}" -w /checkout "$@"
}
inside python3 -c 'import platform, numba, llvmlite.binding as llvm
print(platform.machine(), llvm.get_host_cpu_name(), "numba", numba.__version__)'
inside python3 -m pytest -q -p no:cacheprovider -p emulated -W ignore::pytest.PytestAssertRewriteWarning -o timeout=3000 "$@"
