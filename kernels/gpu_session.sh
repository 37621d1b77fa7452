#!/usr/bin/env bash
# Checks and measures everything a GPU is needed for, in minutes. Knows no kernel.
#
#   bash kernels/gpu_session.sh OUT [STEP...]      STEP: check bench sweep train scorer
#
# Each step has a time limit (seconds, from the variables below) and writes to OUT as it goes, so
# that a crash or a limit loses nothing. Wheels in .whl/ (Liger) are installed beside python3.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$1
shift
STEPS=${*:-check bench train scorer}
CHECK_LIMIT=${CHECK_LIMIT:-110} BENCH_SECONDS=${BENCH_SECONDS:-150} TRAIN_LIMIT=${TRAIN_LIMIT:-130}
SCORER_LIMIT=${SCORER_LIMIT:-110} WARMERS=${WARMERS:-5} PYTHON=${PYTHON:-python3}
BATCH=${BATCH:-8} LENGTH=${LENGTH:-2048} TRAIN_STEPS=${TRAIN_STEPS:-6}
TRAIN_MODELS=${TRAIN_MODELS:-Qwen3-0.6B Llama-3.2-1B}
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/triton} \
    TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-/tmp/inductor}
export COMMIT=${COMMIT:-$(git describe --always --dirty=+ --exclude='*' 2>/dev/null)}
mkdir -p "$OUT"
exec > >(tee -a "$OUT/session.log") 2>&1

await() { # the background jobs named, all by default
    local pids=${*:-$(jobs -p)}
    # shellcheck disable=SC2086  # one word for each process
    [ -z "$pids" ] || wait $pids
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

warm() { # fills the compilers' caches while the checks run; nothing is timed meanwhile
    for part in $(seq 0 $((WARMERS - 1))); do
        TORCHINDUCTOR_COMPILE_THREADS=2 timeout "$CHECK_LIMIT" nice \
            "$PYTHON" -m kernels.bench --warm "$part/$WARMERS" >"/tmp/warm.$part" 2>&1 &
    done
    if [[ $STEPS == *train* ]]; then
        for model in $TRAIN_MODELS; do
            timeout "$CHECK_LIMIT" nice "$PYTHON" -m kernels.train_bench --provider torch.compile \
                --model "$model" --batch "$BATCH" --length "$LENGTH" --warm 1 --steps 1 \
                --memory 0.45 --lock /tmp/warm.lock >"/tmp/warm.$model" 2>&1 &
        done
    fi
}

check() {
    local until=$((SECONDS + CHECK_LIMIT)) shard shards=()
    [[ $STEPS == *bench* ]] && warm
    for shard in 0 1 2 3; do
        timeout 60 "$PYTHON" -m kernels.selfcheck --part "$shard/4" --json "/tmp/shard.$shard" &
        shards+=($!)
    done
    await "${shards[@]}"
    say "kernels compiled"
    limited 60 "$PYTHON" -m kernels.selfcheck --json "$OUT/selfcheck.jsonl"
    grep '"ok": false' "$OUT/selfcheck.jsonl"
    limited $((until - SECONDS > 30 ? until - SECONDS : 30)) \
        "$PYTHON" -m pytest -m gpu tests/kernels tests/models -q --timeout 60 \
        -p no:cacheprovider --continue-on-collection-errors ${PYTEST_OPTIONS--n 4} 2>&1 | tee "$OUT/pytest.log" | tail -40
    while [ $SECONDS -lt $until ] && [ -n "$(jobs -pr)" ]; do sleep 1; done
    for job in $(jobs -pr); do kill "$job"; done
    await
    tail -qn 2 /tmp/warm.* 2>/dev/null
}

bench() {
    limited $((BENCH_SECONDS + 30)) "$PYTHON" -m kernels.bench --budget "$BENCH_SECONDS" \
        --csv "$OUT/bench.csv" --json /tmp/bench.jsonl
}

sweep() {
    limited "${SWEEP_LIMIT:-60}" "$PYTHON" -m kernels.sweep --csv "$OUT/sweep.csv" \
        --json /tmp/sweep.jsonl
}

train() { # all providers load at once and then take turns, one at a time, on the device
    local until=$((SECONDS + TRAIN_LIMIT)) model provider
    for model in $TRAIN_MODELS; do
        for provider in ours liger eager torch.compile; do
            timeout $((until - SECONDS)) "$PYTHON" -m kernels.train_bench --provider $provider \
                --model "$model" --batch "$BATCH" --length "$LENGTH" --warm 2 \
                --steps "$TRAIN_STEPS" --lock /tmp/train.lock --csv "$OUT/train.csv" \
                --json "/tmp/train.$model.$provider" 2>&1 | tail -n 3 &
        done
        await
    done
}

scorer() {
    limited "$SCORER_LIMIT" "$PYTHON" -m models.gpu_bench --json "$OUT/scorer.jsonl" \
        --seconds "${SCORER_SECONDS:-9}"
}

environment
for step in $STEPS; do
    say "$step"
    "$step"
done
say "summary"
"$PYTHON" -m kernels.report --bench "$OUT/bench.csv" --train "$OUT/train.csv" \
    --selfcheck "$OUT/selfcheck.jsonl" | tee "$OUT/summary.md"
say "done"
