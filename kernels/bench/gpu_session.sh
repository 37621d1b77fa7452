#!/usr/bin/env bash
# Checks and measures everything a GPU is needed for, in minutes. Knows no kernel.
#
#   bash kernels/bench/gpu_session.sh OUT [STEP...]      STEP: check bench sweep train choices families scorer
#
# Each step has a time limit (seconds, from the variables below) and writes to OUT as it goes, so
# that a crash or a limit loses nothing. `check` compiles for `sweep` and `bench` meanwhile; `bench`
# stands directly behind it. Wheels in .whl/ (Liger) are installed beside python3.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=$1
shift
STEPS=${*:-check bench train scorer}
CHECK_LIMIT=${CHECK_LIMIT:-90} BENCH_SECONDS=${BENCH_SECONDS:-150} TRAIN_LIMIT=${TRAIN_LIMIT:-110}
SCORER_LIMIT=${SCORER_LIMIT:-110} WORKERS=${WORKERS:-12} PYTHON=${PYTHON:-python3}
PREPARE_SECONDS=${PREPARE_SECONDS:-25} # to go on compiling for the benchmark after the checks
BATCH=${BATCH:-8} LENGTH=${LENGTH:-2048} TRAIN_STEPS=${TRAIN_STEPS:-6}
TRAIN_MODELS=${TRAIN_MODELS:-Qwen3-0.6B Llama-3.2-1B}
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/triton} \
    TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-/tmp/inductor}
export COMMIT=${COMMIT:-$(git describe --always --dirty=+ --exclude='*' 2>/dev/null)}
mkdir -p "$OUT"
exec > >(tee -a "$OUT/session.log") 2>&1

await() { # the background jobs named
    [ $# -eq 0 ] || wait "$@"
}

say() { echo "== $SECONDS s: $*"; }

limited() { # limited SECONDS COMMAND...: its exit status is told, never fatal
    local limit=$1 status=0
    shift
    timeout -k 5 "$limit" "$@" || status=$?
    say "exit $status: $*"
}

environment() {
    local wheels=(.whl/*.whl)
    if [ -e "${wheels[0]}" ]; then
        "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target /tmp/site "${wheels[@]}"
        export PYTHONPATH=/tmp/site${PYTHONPATH:+:$PYTHONPATH}
    fi
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,power.limit --format=csv,noheader || true
}

warm() { # compiles while the checks run; nothing is timed meanwhile
    local part
    [[ $STEPS != *bench* ]] || start_bench
    if [[ $STEPS == *sweep* ]]; then
        for part in 0 1 2 3; do
            # shellcheck disable=SC2086  # several names
            timeout "$CHECK_LIMIT" "$PYTHON" -m kernels.bench.sweep ${SWEEP_OPS:+--ops $SWEEP_OPS} \
                --warm "$part/4" >"/tmp/warm.sweep.$part" 2>&1 &
            warmers+=($!)
        done
    fi
}

warmers=() bench_job=
start_bench() { # its processes compile at once and time nothing before the gate is there
    [ -z "$bench_job" ] || return
    rm -f /tmp/bench.gate
    local options
    # What is not in the file or of code changed since; else such as --ops rope --rows '* 256'
    eval "options=(${BENCH_OPTIONS:---missing kernels/results/h200/bench.csv})"
    nice "$PYTHON" -m kernels.bench "${options[@]}" \
        --workers "$WORKERS" --gate /tmp/bench.gate --prepare "$PREPARE_SECONDS" \
        --window "${WINDOW_MS:-40}" --budget "$BENCH_SECONDS" \
        --csv "$OUT/bench.csv" --json /tmp/bench.jsonl &
    bench_job=$!
}

check() { # the kernels compile in parallel first; then a service's start is timed
    local shard shards=() job
    # shellcheck disable=SC2046,SC2086  # several files and options
    OMP_NUM_THREADS=1 timeout "${PYTEST_LIMIT:-75}" "$PYTHON" -m pytest -m gpu $(grep -rl "mark\.gpu" tests --include="test_*.py") -v --tb=short --timeout 40 \
        -p no:cacheprovider -p no:benchmark --continue-on-collection-errors --durations 12 \
        ${PYTEST_OPTIONS--n 8} >"$OUT/pytest.log" 2>&1 &
    local tests=$!
    for shard in 0 1 2 3; do
        timeout 60 "$PYTHON" -m kernels.selfcheck --part "$shard/4" --json "/tmp/shard.$shard" &
        shards+=($!)
    done
    warm
    await "${shards[@]}"
    say "kernels compiled"
    await $tests
    tail -n 30 "$OUT/pytest.log"
    say "tests done"
    limited 60 "$PYTHON" -m kernels.selfcheck --json "$OUT/selfcheck.jsonl"
    grep '"ok": false' "$OUT/selfcheck.jsonl"
    for job in "${warmers[@]}"; do kill "$job" 2>/dev/null; done
    await "${warmers[@]}"
}

bench() {
    local last=$((SECONDS + PREPARE_SECONDS + BENCH_SECONDS + 60))
    start_bench
    touch /tmp/bench.gate
    while [ $SECONDS -lt $last ] && kill -0 "$bench_job" 2>/dev/null; do sleep 1; done
    kill "$bench_job" 2>/dev/null
    await "$bench_job"
    say "bench: $(wc -l <"$OUT/bench.csv") lines"
}

sweep() {
    limited "${SWEEP_LIMIT:-60}" "$PYTHON" -m kernels.bench.sweep ${SWEEP_OPS:+--ops $SWEEP_OPS} --csv "$OUT/sweep.csv" \
        --json /tmp/sweep.jsonl
}

train() { # all providers load at once and then take turns, one at a time, on the device
    local until=$((SECONDS + TRAIN_LIMIT)) model provider jobs
    for model in $TRAIN_MODELS; do
        jobs=()
        for provider in ours liger eager torch.compile; do
            timeout $((until - SECONDS)) "$PYTHON" -m kernels.bench.training_step --provider $provider \
                --model "$model" --batch "$BATCH" --length "$LENGTH" --warm 2 \
                --steps "$TRAIN_STEPS" --lock /tmp/train.lock --csv "$OUT/train.csv" \
                --json "/tmp/train.$model.$provider" 2>&1 | tail -n 3 &
            jobs+=($!)
        done
        await "${jobs[@]}"
    done
}

choices() { # measures which product of eight bits the dispatcher takes at each shape
    limited "${CHOICES_LIMIT:-45}" "$PYTHON" -m kernels.bench.gemm_measure
    cp kernels/eight_bits/gemm_choices.json "$OUT/"
}

families() { # every model family of the scorer; `check` runs them too
    limited "${FAMILIES_LIMIT:-60}" "$PYTHON" -m pytest -m gpu tests/models -q --tb=short --timeout 50 \
        -p no:cacheprovider -p no:benchmark --durations 5 ${PYTEST_OPTIONS--n 6}
}

scorer() {
    # shellcheck disable=SC2086  # several options
    limited "$SCORER_LIMIT" "$PYTHON" -m models.gpu_bench --json "$OUT/scorer.jsonl" \
        --seconds "${SCORER_SECONDS:-7}" ${SCORER_OPTIONS:-}
}

environment
for step in $STEPS; do
    say "$step"
    "$step"
done
say "summary"
"$PYTHON" -m kernels.readme.report --bench "$OUT/bench.csv" --train "$OUT/train.csv" \
    --selfcheck "$OUT/selfcheck.jsonl" | tee "$OUT/summary.md"
say "done"
