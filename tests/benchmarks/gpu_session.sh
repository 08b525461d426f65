#!/usr/bin/env bash
# Everything that has to be shown on a GPU, in one go of some 25 minutes: correctness first, then
# kernels, then throughput. Needs torch, triton, pytest, pandas, pyarrow, scipy
# and scikit-learn; no Ray. One part a call where a call has 10 minutes.
#
#   OUT=/tmp/gpu bash tests/benchmarks/gpu_session.sh            # all parts
#   OUT=/tmp/gpu bash tests/benchmarks/gpu_session.sh tests      # one: tests kernels small paper phases
#
# Logs go to $OUT; the ends of them, the tables, are printed last.
set -u
out=${OUT:-gpu-session}
mkdir -p "$out"
python=${PYTHON:-python3}
parts=${*:-tests kernels small paper phases}

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
            tests/test_rng.py tests/test_tasks.py tests/test_sampler.py tests/test_model.py \
            tests/test_trainer.py tests/test_kernels.py
        ;;
    kernels) run kernels 300 "$python" -m tests.benchmarks.kernels ;;
    small)
        run small 240 "$python" -m tests.benchmarks.throughput --seconds 1
        PHASESWEEP_FUSED=1 run small-fused 120 "$python" -m tests.benchmarks.throughput \
            --methods d --seconds 1
        ;;
    paper)
        for batch in 64 512; do
            run "paper-$batch" 420 "$python" -m tests.benchmarks.throughput --shapes paper \
                --batch-size $batch --widths 2 16 64 256 512 --methods acd --seconds 1
            PHASESWEEP_FUSED=1 run "paper-$batch-fused" 240 "$python" -m \
                tests.benchmarks.throughput --shapes paper --batch-size $batch \
                --widths 2 16 64 --methods d --seconds 1
        done
        ;;
    phases)
        run phases-bf16 300 "$python" -m tests.benchmarks.precision --precision bf16
        run phases-tf32 300 "$python" -m tests.benchmarks.precision --precision tf32
        ;;
    esac
done
for log in "$out"/*.log; do
    echo "== $(basename "$log" .log)"
    tail -n 24 "$log"
done
cat "$out/summary.txt"
