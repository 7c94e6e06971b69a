#!/usr/bin/env bash
# One table from the three parts of SST-2: text, sentiment, split.
#
#   examples/sst2/table.sh FOLDER > data/sst2/sst2.tsv
#
# FOLDER holds train.tsv, dev.tsv and test.tsv without headers: a sentence, a tab, 0 or 1.
set -euo pipefail
if [ $# -ne 1 ]; then
    echo "usage: examples/sst2/table.sh FOLDER > data/sst2/sst2.tsv" >&2
    exit 2
fi
printf 'text\tsentiment\tsplit\n'
for part in train:train dev:val test:test; do
    awk -F '\t' -v OFS='\t' -v split_="${part#*:}" \
        '{ print $1, $2 == 1 ? "positive" : "negative", split_ }' "$1/${part%:*}.tsv"
done
