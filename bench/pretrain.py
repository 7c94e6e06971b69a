"""Pretraining beside PyTorch: the same size, data, order of magnitude of noise, schedule and steps, several seeds.

    python bench/pretrain.py CONFIG.toml OUT [--seeds 0 1 2] [--epochs N] [--program sensorium] [--threads 2]

CONFIG.toml is for `sensorium pretrain`, from scratch: one objective, `pretrain.mlm` or `pretrain.clm`,
`corpus.validation` files, blocks. For each seed the program runs, and beside it the peer: the transformers library's
model of the run's own config.json from its own random start, trained on the same blocks with torch's AdamW under the
same settings. The sides take turns, epoch by epoch, the program being stopped while the peer learns: what else the
machine does slows both. At the end both models answer the same questions, with the same tokens hidden.

OUT/curves.json keeps what was measured; seeds that stand in it are not run again. Printed are tables in Markdown:
perplexity on the validation files after each epoch (of mlm each side hides tokens by its own draw), the mean over the
seeds with the smallest and the largest, and the difference of the means with its standard error; the seconds of training
in an epoch, validation left out; and the processor's seconds of an epoch with its validation, which say more where other
programs take turns with both sides.
"""

import argparse
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import time
import tomllib

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

MASKS_AT_THE_END = 4  # How often the validation part is gone through then, with other tokens hidden each time.


class Peer:
    """The model in PyTorch, on the blocks of a run of `sensorium pretrain`."""

    def __init__(self, run, seed):
        torch.manual_seed(seed)
        self.run, self.random = run, np.random.default_rng(seed)
        settings = tomllib.loads((run / "config.toml").read_text())
        self.train, self.block = settings["train"], settings["text"]["max_tokens"]
        self.causal = settings["pretrain"]["clm"]["weight"] > 0
        self.config = AutoConfig.from_pretrained(run / "text")
        self.class_of = AutoModelForCausalLM if self.causal else AutoModelForMaskedLM
        self.model = self.class_of.from_config(self.config, attn_implementation="sdpa")
        tokenizer = json.loads((run / "text/tokenizer.json").read_text())
        special = {t["content"]: t["id"] for t in tokenizer["added_tokens"] if t["special"]}
        self.special = torch.zeros(self.config.vocab_size, dtype=torch.bool)
        self.special[list(special.values())] = True
        self.mask_token = special.get("[MASK]")
        self.data, self.validation = self.blocks("train"), self.blocks("validation")
        self.steps = math.ceil(len(self.data) / self.train["batch_size"])
        self.step, self.total = 0, self.steps * self.train["epochs"]
        self.warmup = round(self.train["warmup"] * self.total) if self.train["warmup"] < 1 else self.train["warmup"]
        parameters = list(self.model.named_parameters())
        decayed = [p for n, p in parameters if p.ndim > 1 and "position" not in n and "wpe" not in n]
        kept = {id(p) for p in decayed}
        rest = [p for _, p in parameters if id(p) not in kept]
        groups = [{"params": decayed, "weight_decay": self.train["weight_decay"]}, {"params": rest, "weight_decay": 0}]
        betas = tuple(self.train["betas"])
        self.optimizer = torch.optim.AdamW(groups, lr=self.train["lr"], betas=betas, eps=self.train["eps"])
        self.model.train()

    def blocks(self, name):
        tokens = np.fromfile(self.run / f"corpus/{name}.tokens", dtype="<u4") & 0x7FFFFFFF
        whole = tokens[: len(tokens) // self.block * self.block].astype(np.int64)
        return torch.from_numpy(whole.reshape(-1, self.block))

    def masked(self, ids, random):
        """15 % chosen; of those 80 % the mask token, 10 % any token (transformers' DataCollatorForLanguageModeling)."""

        def draw():
            return torch.from_numpy(random.random(ids.shape, dtype=np.float32))

        chosen = (draw() < 0.15) & ~self.special[ids]
        labels = torch.where(chosen, ids, -100)
        how = draw()
        shown = torch.where(chosen & (how < 0.8), self.mask_token, ids)
        anything = torch.from_numpy(random.integers(0, self.config.vocab_size, ids.shape))
        return torch.where(chosen & (how >= 0.8) & (how < 0.9), anything, shown), labels

    def loss_of(self, model, ids, random):
        if self.causal:
            logits, labels = model(input_ids=ids).logits[:, :-1], ids[:, 1:]
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), labels.numel()
        shown, labels = self.masked(ids, random)
        # Only what is asked for goes through the head, as it does in Sensorium.
        asked = labels != -100
        hidden = model.base_model(input_ids=shown).last_hidden_state[asked]
        return torch.nn.functional.cross_entropy(model.cls(hidden), labels[asked]), int(asked.sum())

    @torch.inference_mode()
    def perplexity(self, model=None, passes=1):
        """On the validation part; what is hidden is the same each time."""
        model = self.model if model is None else model
        random, total, count = np.random.default_rng(0), 0.0, 0
        model.eval()
        for _ in range(1 if self.causal else passes):
            for part in self.validation.split(self.train["batch_size"]):
                loss, n = self.loss_of(model, part, random)
                total, count = total + float(loss) * n, count + n
        model.train()
        return math.exp(total / count)

    def factor(self):
        if self.step < self.warmup:
            return (self.step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (self.step - self.warmup) / (self.total - self.warmup)))

    def epoch(self):
        """Learns for one epoch; the seconds that it took."""
        began = time.perf_counter()
        for part in torch.from_numpy(self.random.permutation(len(self.data))).split(self.train["batch_size"]):
            for group in self.optimizer.param_groups:
                group["lr"] = self.train["lr"] * self.factor()
            loss, _ = self.loss_of(self.model, self.data[part], self.random)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.train["clip_norm"])
            self.optimizer.step()
            self.step += 1
        return time.perf_counter() - began

    def theirs(self):
        """The weights that the program has kept, in the same library."""
        return self.class_of.from_pretrained(self.run / "text", attn_implementation="sdpa")


def epochs_of(run):
    """The epochs of a run so far, as it wrote them down."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    # The last line may be half written.
    records = [json.loads(line) for line in lines if line.startswith('{"event":"epoch"') and line.endswith("}")]
    return records


def processor_seconds(pid):
    """What a process has used of the processor so far (Linux)."""
    user, system = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def beside(arguments, seed):
    """One seed of both sides, in turns."""
    run = arguments.out / f"seed-{seed}"
    command = [arguments.program, "--threads", str(arguments.threads), "pretrain", arguments.config, "--out", run]
    command += ["--set", f"train.seed={seed}"]
    if arguments.epochs:
        command += ["--set", f"train.epochs={arguments.epochs}"]
    program = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL)
    peer, rows, stopped, used = None, [], 0.0, 0.0
    while True:
        ended = program.poll() is not None
        record = next(iter(epochs_of(run)[len(rows) :]), None)
        if record is None:
            if ended:
                break
            time.sleep(0.002)
            continue
        if not ended:
            program.send_signal(signal.SIGSTOP)
        since = time.perf_counter()
        peer = peer or Peer(run, seed)
        before, used = used, used if ended else processor_seconds(program.pid)
        peer_before = time.process_time()
        seconds = peer.epoch()
        row = {
            "step": peer.step,
            "ours": record["metrics"][f"{'clm' if peer.causal else 'mlm'}_perplexity"],
            "peer": peer.perplexity(),
            # The stop fell into this epoch, whose clock went on.
            "ours_seconds": record["seconds_epoch"] - record["seconds_validating"] - stopped,
            "peer_seconds": seconds,
        }
        # The first epoch of the program includes reading the corpus, and after the last one it may be gone.
        if rows and used > before:
            row |= {"ours_processor": used - before, "peer_processor": time.process_time() - peer_before}
        rows.append(row)
        print(f"seed {seed}, epoch {len(rows)}: {row}", flush=True)
        stopped = time.perf_counter() - since
        if not ended:
            program.send_signal(signal.SIGCONT)
    if program.returncode != 0 or peer is None:
        raise SystemExit(f"{command} ended with {program.returncode}")
    same = {
        "ours": peer.perplexity(peer.theirs(), MASKS_AT_THE_END),
        "peer": peer.perplexity(passes=MASKS_AT_THE_END),
    }
    size = {"parameters": sum(p.numel() for p in peer.model.parameters()), "blocks": list(peer.data.shape)}
    return {"seed": seed, **size, "rows": rows, "same_questions": same}


def spread(values):
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def difference(ours, peer):
    """Of the means, with its standard error."""
    if len(ours) < 2:
        return "–"
    error = math.sqrt(statistics.variance(ours) / len(ours) + statistics.variance(peer) / len(peer))
    return f"{statistics.mean(ours) - statistics.mean(peer):+.1f} ± {error:.1f}"


def report(curves):
    runs = list(curves.values())
    print(f"{runs[0]['parameters']} parameters, {runs[0]['blocks']} tokens, seeds {', '.join(curves)}\n")
    print("| epoch | step | ours | PyTorch | difference |\n|---|---|---|---|---|")

    def line(name, step, results):
        ours, peer = [r["ours"] for r in results], [r["peer"] for r in results]
        print(f"| {name} | {step} | {spread(ours)} | {spread(peer)} | {difference(ours, peer)} |")

    for at in range(min(len(r["rows"]) for r in runs)):
        rows = [r["rows"][at] for r in runs]
        line(at + 1, rows[0]["step"], rows)
    line("the same questions", "", [r["same_questions"] for r in runs])
    print()
    rows = [row for r in runs for row in r["rows"]]
    ours, peer = ([row[f"{side}_seconds"] for row in rows] for side in ("ours", "peer"))
    ratios = sorted(a / b for a, b in zip(ours, peer, strict=True))
    medians = statistics.median(ours), statistics.median(peer)
    print(
        f"seconds of training in an epoch, medians of {len(rows)}: {medians[0]:.1f} and {medians[1]:.1f}, ratio "
        f"{medians[0] / medians[1]:.2f} (epoch by epoch {ratios[0]:.2f} to {ratios[-1]:.2f}, median "
        f"{statistics.median(ratios):.2f})"
    )
    rows = [row for row in rows if "ours_processor" in row]
    if rows:
        ours, peer = (statistics.median([row[f"{side}_processor"] for row in rows]) for side in ("ours", "peer"))
        print(f"processor seconds of an epoch with validation, medians of {len(rows)}: {ours:.1f} and {peer:.1f}, ratio {ours / peer:.2f}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("config", type=pathlib.Path)
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--epochs", type=int, default=0, help="instead of the configuration's")
    arguments.add_argument("--program", default="sensorium")
    arguments.add_argument("--threads", type=int, default=2)
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = arguments.out / "curves.json"
    curves = json.loads(kept.read_text()) if kept.exists() else {}
    for seed in arguments.seeds:
        if str(seed) not in curves:
            curves[str(seed)] = beside(arguments, seed)
            kept.write_text(json.dumps(curves, indent=1))
    report(curves)


if __name__ == "__main__":
    main()
