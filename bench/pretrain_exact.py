"""Pretraining and PyTorch, step for step: the same start and the same questions leave nothing to chance.

    python bench/pretrain_exact.py START RUN

RUN is a `sensorium pretrain` that went on from the checkpoint START (text.encoder) with batches of the whole corpus, in
blocks; `corpus.validation` names files, so that no block is held out. Two kinds of it say whether both sides do the same:

- No dropout, and of `mlm` everything hidden (share = 1, mask = 1, random = 0): then every step has one outcome. Printed
  is the largest difference of a loss and of a gradient's norm over all steps, and those of some.
- A learning rate of 1e-30, dropout and masking as they are: every step draws anew from the same weights. Printed are
  the means of both sides with their standard errors.
"""

import json
import math
import pathlib
import sys
import tomllib

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

start, run = map(pathlib.Path, sys.argv[1:])
torch.manual_seed(1)
random = np.random.default_rng(1)
settings = tomllib.loads((run / "config.toml").read_text())
if not settings["corpus"]["validation"]:
    sys.exit("the run held blocks out of its corpus: name files in corpus.validation")
train, block, mlm = settings["train"], settings["text"]["max_tokens"], settings["pretrain"]["mlm"]
causal = settings["pretrain"]["clm"]["weight"] > 0
model = (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_pretrained(start, attn_implementation="eager")
model.train()
tokens = np.fromfile(next((run / "corpus").glob("train*.tokens")), dtype="<u4") & 0x7FFFFFFF
data = torch.from_numpy(tokens[: len(tokens) // block * block].astype(np.int64).reshape(-1, block))
added = json.loads((start / "tokenizer.json").read_text())["added_tokens"]
special = {t["content"]: t["id"] for t in added if t["special"]}
is_special = torch.zeros(model.config.vocab_size, dtype=torch.bool)
is_special[list(special.values())] = True


def draw():
    return torch.from_numpy(random.random(data.shape))


def loss_of_all():
    if causal:
        logits = model(input_ids=data).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), data[:, 1:].flatten())
    asked, how = (draw() < mlm["share"]) & ~is_special[data], draw()
    shown = torch.where(asked & (how < mlm["mask"]), special["[MASK]"], data)
    anything = torch.from_numpy(random.integers(0, model.config.vocab_size, data.shape))
    shown = torch.where(asked & (how >= mlm["mask"]) & (how < mlm["mask"] + mlm["random"]), anything, shown)
    return torch.nn.functional.cross_entropy(model(input_ids=shown).logits[asked], data[asked])


decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and "position" not in n and "wpe" not in n]
kept = {id(p) for p in decayed}
rest = [p for p in model.parameters() if id(p) not in kept]
groups = [{"params": decayed, "weight_decay": train["weight_decay"]}, {"params": rest, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=train["lr"], betas=tuple(train["betas"]), eps=train["eps"])
ours = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
ours = [record for record in ours if record["event"] == "step"]
total, warmup = len(ours), round(train["warmup"] * len(ours))
theirs = []
for step in range(total):
    late = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = train["lr"] * ((step + 1) / warmup if step < warmup else late)
    loss = loss_of_all()
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), train["clip_norm"])
    optimizer.step()
    theirs.append((loss.item(), norm.item()))

print(f"{total} steps of {data.numel()} tokens, {sum(p.numel() for p in model.parameters())} parameters")
if train["lr"] < 1e-20:
    for name, losses in (("ours", [r["loss"] for r in ours]), ("PyTorch", [loss for loss, _ in theirs])):
        print(f"{name}: {np.mean(losses):.4f} ± {np.std(losses, ddof=1) / math.sqrt(total):.4f}")
    sys.exit()
for step in sorted({*range(0, total, 10), total - 1}):
    (loss, norm), record = theirs[step], ours[step]
    print(f"step {step + 1}: loss {record['loss']:.6f} and {loss:.6f}, norm {record['grad_norm']:.5f} and {norm:.5f}")
worst = [max(abs(r[name] - t[at]) for r, t in zip(ours, theirs, strict=True)) for at, name in enumerate(("loss", "grad_norm"))]
print(f"largest difference: loss {worst[0]:.1e}, norm {worst[1]:.1e}")
