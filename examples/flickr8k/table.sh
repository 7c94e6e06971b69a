#!/usr/bin/env bash
# One table of photographs and their captions, a row for each photograph:
# photo, captions (a list), split.
#
#   examples/flickr8k/table.sh FOLDER > data/flickr8k/english.jsonl
#   examples/flickr8k/table.sh FOLDER flickr8kzhc.caption.txt > data/flickr8k/chinese.jsonl
#
# FOLDER holds images/, flickr8k{train,val,test}.txt (names without .jpg, one on a line) and the
# captions: NAME.jpg#…#NUMBER, a blank or tab, the caption.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: examples/flickr8k/table.sh FOLDER [CAPTIONS] > data/flickr8k/english.jsonl" >&2
    exit 2
fi
folder=$(cd "$1" && pwd)
captions="$folder/${2:-flickr8kenc.caption.txt}"
awk -v folder="$folder" '
    FNR == 1 { file++ }
    file < 4 { sub(/\r$/, ""); split_of[$1] = file == 1 ? "train" : file == 2 ? "val" : "test"; next }
    {
        sub(/\r$/, "")
        name = $1
        sub(/\.jpg#.*$/, "", name)
        text = $0
        sub(/^[^ \t]*[ \t]+/, "", text)
        gsub(/\\/, "\\\\", text)
        gsub(/"/, "\\\"", text)
        gsub(/\t/, " ", text)
        if (!(name in split_of) || text == "") next
        if (!(name in of)) order[++rows] = name
        of[name] = of[name] (of[name] == "" ? "" : ", ") "\"" text "\""
    }
    END {
        for (i = 1; i <= rows; i++) {
            name = order[i]
            printf "{\"photo\": \"%s/images/%s.jpg\", \"captions\": [%s], \"split\": \"%s\"}\n",
                folder, name, of[name], split_of[name]
        }
    }' "$folder/flickr8ktrain.txt" "$folder/flickr8kval.txt" "$folder/flickr8ktest.txt" "$captions"
