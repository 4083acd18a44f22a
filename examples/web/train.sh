#!/usr/bin/env bash
# Trains the page's three networks, and counts what they recognise: bash examples/web/train.sh DIR [EPOCHS], with MNIST's four
# files in DIR. Needs the page's module (examples/web/README.md) and Node.
set -euo pipefail
data=$(realpath "$1")
epochs=${2:-20}
cd "$(dirname "$0")/../.."
run() { cargo run --quiet --locked --release --example "$@"; }
# Figure 5's training: 8,000 upright digits of t10k.
run fig5 -- --data "$data" --train 8000 --epochs "$epochs" --batch 64 --seeds 1 --networks p4:28,p4:27,z2:28 \
    --test 1000 --angles 4 --device cpu --out out/web
for network in z2-28 p4-27 p4-28; do
    run export -- --checkpoint "out/web/runs/${network}_upright_seed-0.safetensors" \
        --half "examples/web/networks/$network.safetensors"
done
node examples/web/count.mjs "$data"
