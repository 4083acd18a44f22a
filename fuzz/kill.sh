#!/usr/bin/env bash
# Kills a grid of runs at random moments and starts it again, until it was killed N times; two processes share the folder half of
# the time. In the end every folder must hold the bytes of one that nobody disturbed: bash fuzz/kill.sh [N]
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${1:-100}
cargo build --quiet --example fig6
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A copy, since a result says the commit that its program was built from.
program=$work/fig6
cp "${CARGO_TARGET_DIR:-target}/debug/examples/fig6" "$program"

start() {
    exec "$program" --quick --device cpu --networks z2:8,p4:8 --train 24 --test 20 --angles 4 --epochs 2 --batch 8 \
        --checkpoint-every 0 --out "$1" >>"$work/log" 2>&1 </dev/null
}
# All files but the lock and the times that runs took.
content() { (cd "$1" && find . -type f ! -name lock ! -name results.jsonl -exec sha256sum {} + | sort -k 2 &&
    sed 's/"seconds":[^,]*,//' results.jsonl | sort); }

begun=$(date +%s%N)
(start "$work/whole")
whole_ms=$((($(date +%s%N) - begun) / 1000000))
content "$work/whole" >"$work/expected"
echo "undisturbed: $whole_ms ms, $(grep -c . "$work/expected") files and lines"

killed=0 folders=0 refused=0
while [ "$killed" -lt "$kills" ]; do
    folders=$((folders + 1))
    out=$work/$folders
    while :; do
        (start "$out") & first=$!
        second=
        if [ $((RANDOM % 2)) = 0 ]; then (start "$out") & second=$!; fi
        # Mostly before the end, and sometimes behind it.
        sleep "$(awk -v ms="$whole_ms" -v r=$RANDOM 'BEGIN { print ms * 0.9 * r / 32768 / 1000 }')"
        if kill -9 "$first" 2>/dev/null; then killed=$((killed + 1)); fi
        if wait "$first" 2>/dev/null; then code=0; else code=$?; fi
        if [ -n "$second" ]; then
            if wait "$second" 2>/dev/null; then code=0; else refused=$((refused + 1)); fi
        fi
        [ "$code" = 0 ] && break
        [ "$killed" -lt "$kills" ] || { (start "$out"); break; }
    done
    content "$out" | diff "$work/expected" - || { echo "folder $folders differs after $killed kills"; exit 1; }
done
echo "killed $killed times, $refused second processes refused, $folders folders: all as the undisturbed one"
