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

# Trains a model of some columns: fit NAME "COLUMN..." [SETTING...]
fit() {
    local name=$1 kept=" $2 " column leave=() ignored=video_id
    shift 2
    models+=("$runs/$name")
    [ -f "$runs/$name/metrics.json" ] && return
    # Settings take the place of the configuration's: all columns to leave out are named here.
    for column in text {text,audio,video}_{features,context}; do
        case "$kept" in
            *" $column "*) ;;
            *) leave+=("\"$column\"") ;;
        esac
    done
    ignored=$(printf ', %s' "\"$ignored\"" "${leave[@]}")
    echo "training $runs/$name" >&2
    "$release/sensorium" fit examples/mosi/mosi.toml --set "data.ignore=[${ignored:2}]" "$@" --out "$runs/$name" >/dev/null
}

for part in alone context; do
    models=()
    text=text_features audio=audio_features video=video_features
    if [ "$part" = context ]; then
        text+=" text_context" audio+=" audio_context" video+=" video_context"
    else
        fit alone/words text
    fi
    fit "$part/text" "$text"
    fit "$part/audio" "$audio"
    fit "$part/video" "$video"
    for fusion in concat weighted attention; do
        fit "$part/$fusion" "$text $audio $video" --set "fusion.kind=$fusion"
    done
    "$release/examples/compare" "$table" "$runs/$part.html" "${models[@]}" | tee "$runs/$part.txt"
done
