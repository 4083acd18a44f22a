#!/usr/bin/env bash
# Everything that some minutes of a GPU machine are for, prepared beforehand: the machine needs a Vulkan driver and nothing else, no
# compiler and no network.
#
#   benches/gpu-session.sh pack DIR MNIST      here: builds, strips and packs what is needed into DIR (about 25 MB)
#   benches/gpu-session.sh run DIR OUT SECONDS there: exactness, benches, the grid of Figures 5 and 6 until the time is over
#   benches/gpu-session.sh collect OUT         here again: takes the grid's results over into examples/results/runs/fig6-gpu
#
# Each step has a limit of time, and none goes on beyond SECONDS. OUT/summary says how each ended; a step that measures nothing,
# or runs no test, says so. OUT/session.tar.gz has the logs of all and the grid's results. It is written after each step, so that
# it is there however this ends; collect unpacks it. Copy its bench-*.log into benches/results under a date.
# PROFILE=dev packs what is built already, to try the script out; QUARTERTURN_GPU=software runs it on the CPU, where benches run
# everything once and time nothing. Where Python has PyTorch with CUDA, the same networks are timed with it on the same card.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."
# A path that is relative to where this was called.
absolute() { case $1 in /*) echo "$1" ;; *) echo "$from/$1" ;; esac; }
profile=${PROFILE:-release}
store=examples/results/runs/fig6-gpu

# The path of what cargo has built, from its messages: `executables COMMAND…` prints `name path` lines.
executables() {
    CARGO_PROFILE_RELEASE_DEBUG=false cargo "$@" --no-run --profile "$profile" 2>&1 | tee -a /dev/stderr |
        sed -nE 's/^ +Executable .*(src|tests|benches)\/([a-z_]+)(\/lib)?\.rs \((.*)\)$/\2 \4/p'
}

pack() {
    local dir=$1 mnist=$2 stage
    stage=$(mktemp -d)
    mkdir -p "$dir" "$stage/mnist"
    take() { cp "$2" "$stage/$1" && strip "$stage/$1"; }
    # Of all binaries, so that a build that fails ends this.
    {
        executables test -p quarterturn-models --features gpu --test exactness --test gpu_training --test adaptive | sed 's/^/test-/'
        executables test -p quarterturn-kernels --features gpu --lib | sed 's/^[a-z]*/test-kernels/'
        executables test -p quarterturn-core --features gpu --lib | sed 's/^[a-z]*/test-core/'
        executables bench -p quarterturn --bench kernels --bench train_step --bench gpu_variants --bench first_step | sed 's/^/bench-/'
    } >"$stage/binaries"
    while read -r name path; do take "$name" "$path"; done <"$stage/binaries"
    rm "$stage/binaries"
    cargo build --profile "$profile" --example fig6
    local built=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
    take fig6 "$built/examples/fig6"
    for file in "$mnist"/*-ubyte*; do
        case $file in *.gz) cp "$file" "$stage/mnist/" ;; *) gzip -9c "$file" >"$stage/mnist/$(basename "$file").gz" ;; esac
    done
    mkdir "$stage/former"
    local former=(examples/results/runs/fig6-h100 examples/results/runs/fig6-cpu)
    [ ! -d "$store" ] || former=("$store")
    cp "${former[0]}/settings.json" "$stage/former/"
    cat "${former[@]/%//results.jsonl}" >"$stage/former/results.jsonl"
    for name in test-kernels test-exactness test-gpu_training test-adaptive test-core bench-kernels bench-train_step bench-gpu_variants bench-first_step fig6; do
        [ -x "$stage/$name" ] || { echo "$name was not built"; exit 1; }
    done
    cp benches/peers/p4cnn_torch.py "$stage/"
    git rev-parse HEAD >"$stage/commit"
    tar -cJf "$dir/gpu-session.tar.xz" -C "$stage" .
    cp benches/gpu-session.sh "$dir/"
    rm -rf "$stage"
    ls -l "$dir/gpu-session.tar.xz"
}

# `step NAME LIMIT PATTERN COMMAND…`: runs it, and looks for lines that show that it did something.
step() {
    local name=$1 limit=$2 pattern=$3 begun=$SECONDS code=0
    shift 3
    [ "$limit" -le $((end - SECONDS)) ] || limit=$((end - SECONDS))
    [ "$limit" -gt 1 ] || { echo "$name: no time is left" | tee -a "$out/summary"; return; }
    timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
    local found
    found=$(grep -cE "$pattern" "$out/$name.log" || true)
    local verdict="exit $code"
    [ "$code" != 0 ] || verdict=ok
    [ "$code" != 124 ] || verdict="cut off at $limit s"
    [ "$found" -gt 0 ] || verdict="$verdict, NOTHING WAS MEASURED OR TESTED"
    printf '%-22s %4d s  %s (%d lines)\n' "$name" $((SECONDS - begun)) "$verdict" "$found" | tee -a "$out/summary"
    keep
}

# What has been found so far, in two files.
keep() {
    tar -czf "$goal/session.tar.gz.new" -C "$out" --exclude=fig6/runs . && mv "$goal/session.tar.gz.new" "$goal/session.tar.gz"
    cp "$out/summary" "$goal/summary"
}

run() {
    local dir work
    dir=$(cd "$1" && pwd)
    mkdir -p "$2"
    goal=$(cd "$2" && pwd)
    local seconds=$3
    end=$seconds
    work=$(mktemp -d)
    out=$work/out
    mkdir "$out"
    tar -xJf "$dir/gpu-session.tar.xz" -C "$work"
    cd "$work"
    export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp} REQUIRE_GPU=1
    { echo "commit $(cat commit)"; nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader || true; } \
        2>/dev/null | tee "$out/summary"
    # Exactness first: nothing else is worth anything without it. Of that, tensor cores first: they are tried out the least.
    local required=1
    [ "${QUARTERTURN_GPU:-}" != software ] || required=0
    REQUIRE_TENSOR_CORES=$required step tensor_cores 120 '^test .* ok$' ./test-kernels tensor_cores
    step exactness 60 '^test .* ok$' ./test-exactness
    step adaptive 60 '^test .* ok$' ./test-adaptive
    step gpu_training 30 '^test .* ok$' ./test-gpu_training
    step core 30 '^test .* ok$' ./test-core gpu
    # Short measurements of everything: a tenth of the usual time each. A software adapter runs everything once.
    local found='time: ' options=(--bench --warm-up-time 0.2 --measurement-time 0.5 --sample-size 10)
    [ "${QUARTERTURN_GPU:-}" != software ] || { found='^Success' options=(--test); }
    step bench-train_step $((seconds / 6)) "$found" ./bench-train_step "${options[@]}" gpu
    step bench-kernels $((seconds / 6)) "$found" ./bench-kernels "${options[@]}" gpu
    step bench-gpu_variants $((seconds / 10)) "$found" ./bench-gpu_variants "${options[@]}" gpu
    # Without the driver's own files.
    step bench-first_step $((seconds / 15)) ' reads ' env __GL_SHADER_DISK_CACHE=0 MESA_SHADER_CACHE_DISABLE=1 ./bench-first_step
    if python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        step peers $((seconds / 4)) ' ms$' python3 p4cnn_torch.py --only p4cnn z2cnn p4mcnn --seconds 0.3
        step peers-resnets $((seconds / 10)) ' ms$' python3 p4cnn_torch.py --only p4resnet44_32 p4resnet18_224 --no-compile --seconds 0.3
    else
        echo "peers: Python has no PyTorch with CUDA, left out" | tee -a "$out/summary"
    fi
    # One process fills the GPU. It stops cleanly when told, and what is under way goes on next time.
    mkdir -p "$out/fig6"
    cp former/* "$out/fig6/"
    end=$((seconds - 10))
    step grid "$seconds" 'finished|stopped' ./fig6 --full --training upright,normal:45:20,normal:45:40 --device gpu \
        --data "$work/mnist" --out "$out/fig6"
    # Of its files, results are what must come back: networks can be trained again.
    echo "$(wc -l <"$out/fig6/results.jsonl") of 120 runs" | tee -a "$out/summary"
    keep
    rm -rf "$work"
}

collect() {
    tar -xzf "$1/session.tar.gz" -C "$1"
    mkdir -p "$store"
    cp "$1/fig6"/{settings.json,results.jsonl} "$store/"
    echo "$(wc -l <"$store/results.jsonl") runs in $store; draw them with fig6 --merge $store"
}

case "${1:-} $#" in
"pack 3") pack "$(absolute "$2")" "$(absolute "$3")" ;;
"run 4") run "$(absolute "$2")" "$(absolute "$3")" "$4" ;;
"collect 2") collect "$(absolute "$2")" ;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
