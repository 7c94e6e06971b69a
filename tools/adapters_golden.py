#!/usr/bin/env python3
"""Golden values for the adapters: a tiny BERT, adapters on it as PEFT writes
them, the hidden states they give and the gradients of their parameters.

Needs torch, transformers and peft:

    python tools/adapters_golden.py crates/model/tests/golden/adapters

LoRA, rsLoRA, DoRA, IA3 and prefixes are PEFT's own; bottleneck adapters, for
which PEFT has nothing, and prompts, which PEFT puts below the position
embeddings and not above them, are the papers' formulas in plain torch.
"""

import json
import os
import shutil
import sys

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

SENTENCES = [[2, 3, 4, 5, 6, 7], [8, 9, 10], [11]]
HIDDEN = 16


def tiny_bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=24, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def projection(rows):
    return torch.cos(torch.arange(rows * HIDDEN, dtype=torch.float64)).float().reshape(rows, HIDDEN)


def disturb(parameters, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.add_(0.3 * torch.randn_like(p))


def expected(folder, hidden, named):
    """`hidden` [tokens, hidden] of all sentences, and gradients by the names of the file."""
    loss = (hidden * projection(hidden.shape[0])).sum()
    names, parameters = zip(*named.items())
    gradients = torch.autograd.grad(loss, parameters)
    tensors = {"hidden": hidden.detach().contiguous()}
    for name, gradient in zip(names, gradients):
        tensors["gradient." + name] = gradient.contiguous()
    save_file(tensors, os.path.join(folder, "expected.safetensors"))


def run(model, **extra):
    outputs = [model(input_ids=torch.tensor([ids]), **extra).last_hidden_state[0] for ids in SENTENCES]
    return torch.cat(outputs)


def file_names(model, folder):
    """The parameters of a PEFT model by the names that PEFT gives them in its file."""
    saved = load_file(os.path.join(folder, "adapter_model.safetensors"))
    named = {}
    for name, p in model.named_parameters():
        key = name.replace(".default", "")
        for candidate in (key, key.removesuffix(".weight")):
            if p.requires_grad and candidate in saved:
                named[candidate] = p
    assert named.keys() == saved.keys(), (named.keys(), saved.keys())
    return named


def with_peft(root, name, config):
    model = peft.get_peft_model(tiny_bert(), config)
    disturb([p for p in model.parameters() if p.requires_grad], 1)
    folder = os.path.join(root, name)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    expected(folder, run(model), file_names(model, folder))


def ours(root, name, config, tensors):
    folder = os.path.join(root, name)
    os.makedirs(folder)
    with open(os.path.join(folder, "adapter_config.json"), "w") as f:
        json.dump({"sensorium_adapter": 1, "config": config}, f, indent=2)
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, os.path.join(folder, "adapter_model.safetensors"))
    return folder


def bottleneck(root, name, config, sites, activation):
    """Adapters after modules, or (`beside`) beside a feed-forward part."""
    model, width = tiny_bert(), round(HIDDEN / config["reduction"])
    for p in model.parameters():
        p.requires_grad_(False)
    named = {}

    def adapter(site):
        shapes = {"adapter_down.weight": (width, HIDDEN), "adapter_down.bias": (width,),
                  "adapter_up.weight": (HIDDEN, width), "adapter_up.bias": (HIDDEN,)}
        own = {part: torch.zeros(shape, requires_grad=True) for part, shape in shapes.items()}
        for part, p in own.items():
            named[f"base_model.model.{site}.{part}"] = p
        return lambda h: config["scale"] * torch.nn.functional.linear(
            activation(torch.nn.functional.linear(h, own["adapter_down.weight"], own["adapter_down.bias"])),
            own["adapter_up.weight"], own["adapter_up.bias"])

    for site, beside in sites:
        f = adapter(site)
        module = model.get_submodule(site)
        if beside is None:
            module.register_forward_hook(lambda m, i, y, f=f: y + f(y))
        else:
            seen = {}
            model.get_submodule(beside).register_forward_hook(lambda m, i, y, s=seen: s.update(x=i[0]))
            module.register_forward_hook(lambda m, i, y, f=f, s=seen: y + f(s["x"]))
    disturb(named.values(), 2)
    expected(ours(root, name, config, named), run(model), named)


def prefix(root):
    model = tiny_bert()
    tokens, layers = 3, model.config.num_hidden_layers
    wrapped = peft.get_peft_model(model, peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=tokens))
    disturb([p for p in wrapped.parameters() if p.requires_grad], 3)
    table = wrapped.prompt_encoder["default"].embedding.weight
    # [tokens, layers * 2 * hidden]: for each layer the keys, then the values.
    parts = table.reshape(tokens, layers, 2, HIDDEN)
    named = {}
    for layer in range(layers):
        for at, kind in enumerate(["key", "value"]):
            named[f"base_model.model.encoder.layer.{layer}.attention.self.{kind}.prefix"] = (layer, at)
    tensors = {name: parts[:, layer, at] for name, (layer, at) in named.items()}
    folder = ours(root, "prefix", {"kind": "prefix", "tokens": tokens}, tensors)
    outputs = []
    for ids in SENTENCES:
        past = wrapped.get_prompt(batch_size=1)
        outputs.append(model(
            input_ids=torch.tensor([ids]), past_key_values=past, position_ids=torch.arange(len(ids))[None],
            attention_mask=torch.ones(1, tokens + len(ids)),
        ).last_hidden_state[0])
    hidden = torch.cat(outputs)
    plain = run(model)
    assert (hidden - plain).abs().max() > 0.1, "the prefix was not used"
    gradient, = torch.autograd.grad((hidden * projection(hidden.shape[0])).sum(), [table])
    gradient = gradient.reshape(tokens, layers, 2, HIDDEN)
    out = {"gradient." + name: gradient[:, layer, at].contiguous() for name, (layer, at) in named.items()}
    save_file({"hidden": hidden.detach().contiguous(), **out}, os.path.join(folder, "expected.safetensors"))


def prompt(root):
    model, tokens = tiny_bert(), 4
    table = torch.zeros(tokens, HIDDEN, requires_grad=True)
    disturb([table], 4)
    named = {"base_model.model.encoder.layer.0.attention.self.query.prompt": table}
    outputs = []
    for ids in SENTENCES:
        x = torch.cat([table[None], model.embeddings(torch.tensor([ids]))], dim=1)
        outputs.append(model.encoder(x).last_hidden_state[0, tokens:])
    expected(ours(root, "prompt", {"kind": "prompt", "tokens": tokens}, named), torch.cat(outputs), named)


def main(root):
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    base = tiny_bert()
    base.save_pretrained(os.path.join(root, "base"))
    save_file({"hidden": run(base).detach().contiguous()}, os.path.join(root, "base", "expected.safetensors"))

    attention = ["query", "value"]
    with_peft(root, "lora", peft.LoraConfig(r=2, lora_alpha=6, target_modules=attention))
    with_peft(root, "rslora", peft.LoraConfig(
        r=4, lora_alpha=3, use_rslora=True, target_modules=["word_embeddings", "key", "dense"]))
    with_peft(root, "lora-patterns", peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=attention, rank_pattern={"layer.1.attention.self.value": 3},
        alpha_pattern={"layer.0.attention.self.query": 1}))
    with_peft(root, "dora", peft.LoraConfig(r=2, lora_alpha=6, use_dora=True, target_modules=["query", "output.dense"]))
    with_peft(root, "ia3", peft.IA3Config(
        target_modules=["key", "value", r"layer.0.output.dense", r"layer.1.output.dense"],
        feedforward_modules=["layer.0.output.dense", "layer.1.output.dense"]))

    after = [(f"encoder.layer.{i}.{site}", None) for i in range(2) for site in ["attention.output.dense", "output.dense"]]
    own = lambda placement, activation, scale: {
        "kind": "bottleneck", "placement": placement, "reduction": 4.0, "activation": activation, "scale": scale}
    silu, relu = torch.nn.functional.silu, torch.nn.functional.relu
    bottleneck(root, "houlsby", own("houlsby", "silu", 1.0), after, silu)
    bottleneck(root, "pfeiffer", own("pfeiffer", "relu", 1.0), after[1::2], relu)
    beside = [(f"encoder.layer.{i}.output.dense", f"encoder.layer.{i}.intermediate") for i in range(2)]
    bottleneck(root, "parallel", own("parallel", "relu", 4.0), beside, relu)
    prefix(root)
    prompt(root)


if __name__ == "__main__":
    main(sys.argv[1])
