"""How long the texts of a table are in tokens: what `bench/compare` draws its batches of natural lengths from.

    python bench/lengths.py TOKENIZER.json TABLE COLUMN [--max 128] > bench/lengths/NAME.json

TABLE is a CSV or TSV file; COLUMN the name or, where the first row is data, the number of the column (from 0).
The special tokens count, as they do in training.
"""

import argparse
import collections
import csv
import json
import os

from tokenizers import Tokenizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer")
    parser.add_argument("table")
    parser.add_argument("column")
    parser.add_argument("--max", type=int, default=128)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(options.tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(options.max)
    with open(options.table, encoding="utf-8", newline="") as file:
        tabs = options.table.endswith(".tsv")
        rows = list(csv.reader(file, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL))
    if options.column.isdigit():
        column = int(options.column)
    else:
        column = rows[0].index(options.column)
        rows = rows[1:]
    lengths = [len(e.ids) for e in tokenizer.encode_batch([row[column] for row in rows])]
    counts = collections.Counter(lengths)
    print(json.dumps({
        "texts": len(lengths), "table": os.path.basename(options.table), "mean": round(sum(lengths) / len(lengths), 2),
        "longest": max(lengths), "counts": {str(n): counts[n] for n in sorted(counts)},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
