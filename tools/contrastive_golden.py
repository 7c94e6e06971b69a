#!/usr/bin/env python3
"""Golden values of the contrastive losses and their gradients, from open_clip.

Needs torch and open_clip_torch (of which only `loss.py` is loaded):

    python tools/contrastive_golden.py crates/engine/tests/golden/contrastive.json

`clip` and `siglip` are open_clip's own losses. Those with rows that are the
same are what open_clip has no option for: the same logits with those entries
at minus infinity under its cross-entropy, and with +1 among its labels.
"""

import importlib.metadata
import importlib.util
import json
import sys

import torch
import torch.nn.functional as F

N, DIM = 5, 8
SAME = [[2, 3], [], [0, 3], [0, 2], []]


def open_clip_losses():
    root = importlib.metadata.distribution("open_clip_torch").locate_file("open_clip/loss.py")
    spec = importlib.util.spec_from_file_location("open_clip_loss", root)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unit(seed):
    x = torch.arange(N * DIM).mul(7).add(seed * 5).remainder(23).double().mul(0.17).sub(1.8).reshape(N, DIM)
    return x / x.norm(dim=1, keepdim=True)


def mask():
    m = torch.zeros(N, N, dtype=torch.bool)
    for i, row in enumerate(SAME):
        m[i, row] = True
    return m


def case(scale, bias, loss):
    inputs = [unit(0), unit(1), torch.tensor(scale, dtype=torch.float64)]
    if bias is not None:
        inputs.append(torch.tensor(bias, dtype=torch.float64))
    inputs = [x.requires_grad_() for x in inputs]
    value = loss(*inputs)
    value.backward()
    return [[value.item()]] + [x.grad.flatten().tolist() for x in inputs]


def main():
    losses = open_clip_losses()
    clip, siglip = losses.ClipLoss(), losses.SigLipLoss()

    def clip_same(a, b, s):
        logits = (s.exp() * a @ b.T).masked_fill(mask(), -torch.inf)
        target = torch.arange(N)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def siglip_same(a, b, s, bias):
        logits = s.exp() * a @ b.T + bias
        labels = 2 * (torch.eye(N).bool() | mask()).double() - 1
        return -F.logsigmoid(labels * logits).sum() / N

    values = {
        "clip": case(2.6592, None, lambda a, b, s: clip(a, b, s.exp())),
        "clip_same": case(1.5, None, clip_same),
        "siglip": case(2.302585, -10.0, lambda a, b, s, bias: siglip(a, b, s.exp(), bias)),
        "siglip_same": case(1.5, -0.5, siglip_same),
    }
    versions = {"torch": torch.__version__, "open_clip": importlib.metadata.version("open_clip_torch")}
    print(versions)
    with open(sys.argv[1], "w") as f:
        json.dump({"versions": versions, **values}, f, indent=None)
        f.write("\n")


if __name__ == "__main__":
    main()
