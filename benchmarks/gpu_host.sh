#!/usr/bin/env bash
# GPU tests and benchmarks on a host that reaches no package registry: wheels of what it lacks lie in $WHEELS (.whl, which
# is ignored), results go to $OUT. Arguments name the steps: tests, gpu, stream, imaging, scans, lane_time, profile, sanitizer;
# default: the first three. LIVE4D_BENCH_BEFORE names a checkout to compare with.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${OUT:=out/gpu}" "${WHEELS:=.whl}" "${ROUNDS:=5}"
mkdir -p "$OUT"
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site "$WHEELS"/*.whl 2>&1 | grep -v WARNING
export PYTHONPATH=/tmp/site:$PWD PYTHONUNBUFFERED=1 MPLBACKEND=Agg
[ $# -gt 0 ] || set -- tests gpu stream
failed=0
for step in "$@"; do
    case $step in
        tests) python3 -m pytest -q --tb=short -p no:cacheprovider tests/decode/test_gpu.py tests/engine/test_gpu_acquisition.py tests/commands/test_doctor.py tests/imaging tests/engine/test_refits.py \
            tests/testing tests/user_package \
            -k 'gpu or GPU' 2>&1 | tee "$OUT/tests.txt" ;;
        lane_time) python3 -m "benchmarks.$step" "$OUT/$step.json" 2>&1 | tee "$OUT/$step.txt" ;;
        profile) python3 -m benchmarks.gpu_profile 192 96u32 2>&1 | tee "$OUT/profile.txt" ;;
        sanitizer)
            compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 3 python3 -m pytest -q -p no:cacheprovider --timeout 500 \
                tests/decode/test_gpu.py -k 'mutated or bad_frames or different_layouts or bszstd' -x 2>&1 | tee "$OUT/sanitizer.txt" ;;
        *) python3 -m live4d_ophyd bench "$step" --rounds "$ROUNDS" --out "$OUT/$step.json" 2>&1 | tee "$OUT/$step.txt" ;;
    esac || failed=1
done
exit $failed
