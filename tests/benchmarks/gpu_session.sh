#!/usr/bin/env bash
# Everything that has to be shown on a GPU: correctness first, then kernels, throughput, phases, and
# the paper's map. Needs torch, triton, pytest, pandas, pyarrow, scipy, scikit-learn and, for the
# last, PyYAML and data/MNIST; no Ray. Each part ends within nine minutes.
#
#   OUT=/tmp/gpu bash tests/benchmarks/gpu_session.sh            # all parts, some 40 minutes
#   OUT=/tmp/gpu bash tests/benchmarks/gpu_session.sh tests      # one, in the order of their worth:
#                                    # tests paper-64 paper-512 kernels phases figure2 small
#
# Logs go to $OUT; the ends of them, the tables, are printed last.
set -u
out=${OUT:-gpu-session}
mkdir -p "$out"
python=${PYTHON:-python3}
parts=${*:-tests paper-64 paper-512 kernels phases figure2 small}

run() { # name, seconds, command ...
    local name=$1 seconds=$2
    shift 2
    timeout -s INT "$seconds" "$@" >"$out/$name.log" 2>&1
    echo "$name: exit $? after ${SECONDS} s" | tee -a "$out/summary.txt"
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/summary.txt"
for part in $parts; do
    case $part in
    tests)
        run tests 420 "$python" -m pytest -q -p no:cacheprovider -o timeout=300 -o addopts= \
            tests/core/test_rng.py tests/core/tasks/test_projected_images.py tests/core/tasks/test_sampler.py tests/core/architectures/test_model.py \
            tests/core/training/test_trainer.py tests/core/training/test_captured.py tests/core/kernels/test_cuda.py
        ;;
    kernels) run kernels 300 "$python" -m tests.benchmarks.kernels ;;
    small)
        run small 240 "$python" -m tests.benchmarks.throughput --seconds 1
        METAPHASE_FUSED=1 run small-fused 120 "$python" -m tests.benchmarks.throughput \
            --methods d --seconds 1
        ;;
    paper-*)
        batch=${part#paper-}
        run "$part" 320 "$python" -m tests.benchmarks.throughput --shapes paper \
            --batch-size "$batch" --widths 2 16 64 256 512 --methods acd --seconds 0.7
        METAPHASE_FUSED=1 run "$part-fused" 200 "$python" -m tests.benchmarks.throughput \
            --shapes paper --batch-size "$batch" --methods d --seconds 0.5
        ;;
    phases)
        run phases-bf16 260 "$python" -m tests.benchmarks.precision --precision bf16
        run phases-tf32 260 "$python" -m tests.benchmarks.precision --precision tf32
        ;;
    figure2)
        run figure2 500 "$python" -m metaphase.sweeps.run figure2-small --executor local --root "$out"
        ;;
    esac
done
for log in "$out"/*.log; do
    echo "== $(basename "$log" .log)"
    tail -n 24 "$log"
done
cat "$out/summary.txt"
