#!/usr/bin/env bash
# Sentiment on CMU-MOSI: each modality alone and all fused by each method, each
# utterance alone and with its neighbours; then one table of all of them.
#
#   examples/mosi/run.sh FOLDER      (the folder of features; see README.md)
set -euo pipefail
if [ $# -ne 1 ]; then
    echo "usage: examples/mosi/run.sh FOLDER" >&2
    exit 2
fi
source=$(realpath "$1")
cd "$(dirname "$0")/../.."
table=data/mosi/mosi.jsonl
runs=runs/mosi

cargo build --release --locked -p sensorium-cli --bin sensorium -p sensorium --example mosi_table --example compare
release=${CARGO_TARGET_DIR:-target}/release
[ -f "$table" ] || "$release/examples/mosi_table" "$source" "$table"

# Trains a model of some columns: fit NAME "COLUMN..." [--set KEY=VALUE]...
fit() {
    local name=$1 kept=" $2 " column leave=()
    shift 2
    [ -f "$runs/$name/metrics.json" ] && return
    for column in text {text,audio,video}_{features,context}; do
        case "$kept" in
            *" $column "*) ;;
            *) leave+=(--ignore "$column") ;;
        esac
    done
    echo "training $runs/$name" >&2
    "$release/sensorium" fit examples/mosi/mosi.toml "${leave[@]}" "$@" --out "$runs/$name" >/dev/null
}

models=()
compare_part() {
    "$release/examples/compare" "$table" "$runs/$1.html" "${models[@]}" | tee "$runs/$1.txt"
    models=()
}

for part in alone context; do
    text="text text_features" audio=audio_features video=video_features
    if [ "$part" = context ]; then
        text+=" text_context" audio+=" audio_context" video+=" video_context"
    fi
    fit "$part/text" "$text"
    fit "$part/audio" "$audio"
    fit "$part/video" "$video"
    for fusion in concat weighted attention; do
        fit "$part/$fusion" "$text $audio $video" --set "fusion.kind=$fusion"
    done
    for name in text audio video concat weighted attention; do models+=("$runs/$part/$name"); done
    compare_part "$part"
done
