"""What pretraining is worth: a fit on 1 %, 10 % and 100 % of the labels, from scratch and from a pretrained encoder.

    python bench/pretrain_worth.py REVIEWS.csv OUT [--text MORE.csv ...] [--epochs N] [--seeds N] [--sensorium PROGRAM]

REVIEWS.csv has the columns `label` and `review` (waimai_10k.csv, say). A row is for test, validation or training by a
hash of its text; the encoder sees the training texts, without labels, and the `review` columns of the other files.
Smaller sets of labels are within the larger ones. Printed: accuracy on the same test rows, for each training seed.
"""

import argparse
import csv
import hashlib
import json
import pathlib
import subprocess

arguments = argparse.ArgumentParser()
arguments.add_argument("reviews")
arguments.add_argument("out", type=pathlib.Path)
arguments.add_argument("--text", nargs="*", default=[])
arguments.add_argument("--epochs", type=int, default=10)
arguments.add_argument("--seeds", type=int, default=2)
arguments.add_argument("--sensorium", default="target/release/sensorium")
arguments = arguments.parse_args()
out = arguments.out
out.mkdir(parents=True, exist_ok=True)


def rows(path):
    return [(r["label"], r["review"]) for r in csv.DictReader(open(path, encoding="utf-8-sig")) if r["review"].strip()]


def place(text):
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def split(text):
    return "test" if place(text) < 0.2 else "val" if place(text) < 0.25 else "train"


def lines(texts):
    return "".join(" ".join(text.split()) + "\n" for text in texts)


every = rows(arguments.reviews)
training = [r for r in every if split(r[1]) == "train"]
held_out = [r for r in every if split(r[1]) != "train"]
others = [text for path in arguments.text for _, text in rows(path)]
(out / "text.txt").write_text(lines([t for _, t in training] + others))
(out / "text-val.txt").write_text(lines(t for _, t in held_out if split(t) == "val"))
(out / "pretrain.toml").write_text(f"""
[corpus]
files = ["text.txt"]
validation = ["text-val.txt"]
unit = "line"

[pretrain.mlm]
weight = 1

[text]
max_tokens = 128

[text.tower]
hidden = 128
layers = 4

[train]
epochs = {arguments.epochs}
batch_size = 64
lr = 1e-3
""")


def run(*command):
    done = subprocess.run([arguments.sensorium, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


if not (out / "encoder/text/model.safetensors").exists():
    print("pretraining:", run("pretrain", out / "pretrain.toml", "--out", out / "encoder", "--json"), flush=True)
print("labels   seed   from scratch   pretrained")
for share in (0.01, 0.1, 1.0):
    chosen = sorted(training, key=lambda r: place("labels " + r[1]))[: round(share * len(training))]
    table = out / f"labels-{len(chosen)}.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "review", "split"])
        writer.writerows([*r, "train"] for r in chosen)
        writer.writerows([*r, split(r[1])] for r in held_out)
    for seed in range(arguments.seeds):
        common = ["fit", table, "--label", "label", "--type", "review=text", "--json", "--set", f"train.seed={seed}"]
        common += ["--set", "data.split=split", "--set", "text.max_tokens=128"]
        accuracy = []
        for name, more in {
            # The same vocabulary and sizes, and a learning rate of its own for each.
            "scratch": [
                f"text.tokenizer={out}/encoder/text/tokenizer.json", "text.tower.hidden=128", "text.tower.layers=4",
            ],
            "pretrained": [f"text.encoder={out}/encoder/text", 'train.lr_scale={"towers.*"=0.4}'],
        }.items():
            sets = [x for setting in more for x in ("--set", setting)]
            model = out / f"model-{name}-{len(chosen)}-{seed}"
            accuracy.append(run(*common, *sets, "--out", model)["accuracy"])
        print(f"{len(chosen):6} {seed:6} {accuracy[0]:14.3f} {accuracy[1]:12.3f}", flush=True)
