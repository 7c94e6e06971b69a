"""Pretraining beside PyTorch: the same size, data, order of magnitude of noise, schedule and steps.

    sensorium pretrain RUN.toml --out RUN
    python bench/pretrain.py RUN [--threads N] [--epochs N]

RUN is the folder of a finished `sensorium pretrain` from scratch with one objective, `corpus.validation` files and
blocks. The peer is the transformers library's model of RUN/text/config.json from its own random start, trained on the
same blocks (RUN/corpus) with torch's AdamW under the same settings. Printed: validation perplexity after each epoch of
both, and the seconds of training in an epoch, validation left out.
"""

import argparse
import json
import math
import pathlib
import time
import tomllib

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

arguments = argparse.ArgumentParser()
arguments.add_argument("run", type=pathlib.Path)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--epochs", type=int, default=0, help="stop after so many; the schedule stays that of the run")
arguments = arguments.parse_args()
torch.set_num_threads(arguments.threads)
torch.manual_seed(1)
random = np.random.default_rng(1)

run = arguments.run
settings = tomllib.loads((run / "config.toml").read_text())
train, block = settings["train"], settings["text"]["max_tokens"]
causal = settings["pretrain"]["clm"]["weight"] > 0
config = AutoConfig.from_pretrained(run / "text")
model = (AutoModelForCausalLM if causal else AutoModelForMaskedLM).from_config(config, attn_implementation="sdpa")


def blocks(name):
    tokens = np.fromfile(run / f"corpus/{name}.tokens", dtype="<u4") & 0x7FFFFFFF
    return torch.from_numpy(tokens[: len(tokens) // block * block].astype(np.int64).reshape(-1, block))


tokenizer = json.loads((run / "text/tokenizer.json").read_text())
special = {t["content"]: t["id"] for t in tokenizer["added_tokens"] if t["special"]}
is_special = torch.zeros(config.vocab_size, dtype=torch.bool)
is_special[list(special.values())] = True
mask_token = special.get("[MASK]")


def draw(shape):
    return torch.from_numpy(random.random(shape, dtype=np.float32))


def masked(ids):
    """15 % chosen; of those 80 % the mask token, 10 % any token (transformers' DataCollatorForLanguageModeling)."""
    chosen = (draw(ids.shape) < 0.15) & ~is_special[ids]
    labels = torch.where(chosen, ids, -100)
    how = draw(ids.shape)
    shown = torch.where(chosen & (how < 0.8), mask_token, ids)
    anything = torch.from_numpy(random.integers(0, config.vocab_size, ids.shape))
    return torch.where(chosen & (how >= 0.8) & (how < 0.9), anything, shown), labels


def loss_of(ids):
    shown, labels = (ids, ids) if causal else masked(ids)
    if causal:
        logits = model(input_ids=shown).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()), labels[:, 1:].numel()
    # Only what is asked for goes through the head, as it does in Sensorium.
    asked = labels != -100
    hidden = model.base_model(input_ids=shown).last_hidden_state[asked]
    return torch.nn.functional.cross_entropy(model.cls(hidden), labels[asked]), int(asked.sum())


@torch.inference_mode()
def perplexity(data):
    model.eval()
    total = count = 0
    for part in data.split(train["batch_size"]):
        loss, n = loss_of(part)
        total, count = total + float(loss) * n, count + n
    model.train()
    return math.exp(total / count)


decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and "position" not in n and "wpe" not in n]
kept = {id(p) for p in decayed}
rest = [p for p in model.parameters() if id(p) not in kept]
groups = [{"params": decayed, "weight_decay": train["weight_decay"]}, {"params": rest, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=train["lr"], betas=tuple(train["betas"]), eps=train["eps"])
data, validation = blocks("train"), blocks("validation")
steps = math.ceil(len(data) / train["batch_size"])
total = steps * train["epochs"]
warmup = train["warmup"] * total if train["warmup"] < 1 else train["warmup"]


def factor(step):
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


ours = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
ours = [r for r in ours if r["event"] == "epoch"]
name = "clm" if causal else "mlm"
print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(data)} blocks of {block}, {steps} steps an epoch")
print("epoch   step   perplexity: ours   peer   seconds: ours   peer   ratio")
model.train()
step = 0
for epoch in range(arguments.epochs or train["epochs"]):
    began = time.perf_counter()
    for part in torch.from_numpy(random.permutation(len(data))).split(train["batch_size"]):
        for group in optimizer.param_groups:
            group["lr"] = train["lr"] * factor(step)
        loss, _ = loss_of(data[part])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train["clip_norm"])
        optimizer.step()
        step += 1
    seconds = time.perf_counter() - began
    record = ours[epoch] if epoch < len(ours) else None
    own = record["seconds_epoch"] - record["seconds_validating"] if record else math.nan
    own_perplexity = record["metrics"][f"{name}_perplexity"] if record else math.nan
    print(
        f"{epoch + 1:5} {step:6} {own_perplexity:18.1f} {perplexity(validation):6.1f} {own:15.1f} {seconds:6.1f} {own / seconds:7.2f}",
        flush=True,
    )
