#!/usr/bin/env python3
"""Golden values of image-text matching: scores, loss and gradients, from the blocks of transformers' BLIP.

    python tools/matching_golden.py crates/model/tests/golden/matching.json

The blocks are BlipTextEncoder's, with cross-attention; before them stand two linear layers that bring texts and
pictures to their width, behind them the linear layer over the first token, as BLIP's `itm_head`.
"""

import json
import sys

import torch
import torch.nn.functional as F
import transformers
from transformers.models.blip.configuration_blip import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextEncoder

TEXT, IMAGE, HIDDEN, HEADS, LAYERS = 6, 5, 8, 2, 2
TEXTS, IMAGES = [3, 2], [4, 4]
PAIRS = [(0, 0), (1, 1), (0, 1), (1, 0), (1, 0)]
TARGETS = [1, 1, 0, 0, 0]
BLOCK = {
    "attention.query": "attention.self.query", "attention.key": "attention.self.key",
    "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm", "cross.query": "crossattention.self.query",
    "cross.key": "crossattention.self.key", "cross.value": "crossattention.self.value",
    "cross.output": "crossattention.output.dense", "cross_norm": "crossattention.output.LayerNorm",
    "mlp.up": "intermediate.dense", "mlp.down": "output.dense", "mlp_norm": "output.LayerNorm",
}


def main():
    torch.manual_seed(3)
    config = BlipTextConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, num_hidden_layers=LAYERS, intermediate_size=4 * HIDDEN,
        encoder_hidden_size=HIDDEN, hidden_act="gelu", layer_norm_eps=1e-12, is_decoder=True,
        attn_implementation="eager",
    )
    encoder = BlipTextEncoder(config).eval()
    text, image, output = torch.nn.Linear(TEXT, HIDDEN), torch.nn.Linear(IMAGE, HIDDEN), torch.nn.Linear(HIDDEN, 2)
    named = {}
    for name, layer in (("text", text), ("image", image), ("output", output)):
        named |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    for i, layer in enumerate(encoder.layer):
        own = dict(layer.named_parameters())
        for ours, theirs in BLOCK.items():
            for part in ("weight", "bias"):
                named[f"layer.{i}.{ours}.{part}"] = own.pop(f"{theirs}.{part}")
        assert not own, own.keys()
    with torch.no_grad():
        for name, p in named.items():
            norm = name.endswith("_norm.weight")
            p.copy_(torch.randn(p.shape) * (0.3 if p.dim() == 2 else 0.2) + (1 if norm else 0))
    texts = torch.randn(sum(TEXTS), TEXT, requires_grad=True)
    images = torch.randn(sum(IMAGES), IMAGE, requires_grad=True)
    rows = []
    for t, i in PAIRS:
        x = text(texts.split(TEXTS)[t])[None]
        memory = image(images.split(IMAGES)[i])[None]
        none = [torch.zeros(1, 1, 1, n.shape[1]) for n in (x, memory)]
        states = encoder(x, attention_mask=none[0], encoder_hidden_states=memory, encoder_attention_mask=none[1])
        rows.append(output(states.last_hidden_state[:, 0]))
    scores = torch.cat(rows)
    loss = F.cross_entropy(scores, torch.tensor(TARGETS))
    loss.backward()

    def flat(x):
        return [float(f"{v:.7g}") for v in x.detach().flatten().tolist()]

    case = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "texts": flat(texts), "images": flat(images), "scores": flat(scores), "loss": [loss.item()],
        "weights": {name: flat(p) for name, p in named.items()},
        "gradients": {name: flat(p.grad) for name, p in named.items()}
        | {"texts": flat(texts.grad), "images": flat(images.grad)},
    }
    print(case["versions"], loss.item())
    with open(sys.argv[1], "w") as f:
        json.dump(case, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
