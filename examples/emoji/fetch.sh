#!/usr/bin/env bash
# Fetches four vendors' emoji drawings (64 pixels) and their names in English and Chinese, as npm
# packages. Needs npm; about 330 MB are downloaded, 40 MB kept.
#
#   examples/emoji/fetch.sh data/emoji
set -euo pipefail
if [ $# -ne 1 ]; then
    echo "usage: examples/emoji/fetch.sh FOLDER" >&2
    exit 2
fi
mkdir -p "$1"
cd "$1"
# fetch PACKAGE@VERSION FOLDER MEMBERS…: unpacks parts of a package into a folder.
fetch() {
    local package=$1 folder=$2 archive
    shift 2
    [ -d "$folder" ] && return
    echo "$package" >&2
    archive=$(npm pack --silent "$package" | tail -n 1)
    mkdir -p "$folder.partial"
    tar -xzf "$archive" -C "$folder.partial" --strip-components=1 "${@/#/package/}"
    mv "$folder.partial" "$folder"
    rm "$archive"
}
for vendor in apple google twitter facebook; do
    fetch "emoji-datasource-$vendor@16.0.0" "$vendor" emoji.json "img/$vendor/64" LICENSE
done
fetch cldr-annotations-full@48.2.0 cldr annotations/en annotations/zh LICENSE
