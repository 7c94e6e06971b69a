"""ModernBERT: see common.py. Run with the packages of tools/parity/requirements.txt."""

import torch
from common import run, write
from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    ModernBertModel,
)

TEXTS = [[2, 17, 5, 9, 30, 3, 8, 8, 21, 14, 1], [2, 8, 3]]


def encode(model, text):
    return {"tokens": model(input_ids=torch.tensor([text])).last_hidden_state[0]}


def per_token(model, text):
    return {"head": model(input_ids=torch.tensor([text])).logits[0]}


def per_text(model, text):
    return {"head": model(input_ids=torch.tensor([text])).logits}


def case(name, model_class, outputs=encode, head=None, **more):
    base = {
        "vocab_size": 32,
        "hidden_size": 12,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 10,
        "max_position_embeddings": 64,
        "local_attention": 4,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
    }

    def forward(model):
        results = [outputs(model, text) for text in TEXTS]
        return {name: torch.cat([r[name] for r in results]) for name in results[0]}

    written, tensors, result = run(model_class, ModernBertConfig(**(base | more)), "text", {"tokens": TEXTS}, forward, head)
    write(name, written, tensors, [result])


case("modernbert", ModernBertModel)
case("modernbert_biases_silu", ModernBertModel, attention_bias=True, mlp_bias=True, norm_bias=True, hidden_activation="silu", local_attention=7, num_attention_heads=1)
case("modernbert_masked_lm", ModernBertForMaskedLM, per_token, "masked_lm", num_hidden_layers=2, norm_eps=1e-3)
case("modernbert_classifier", ModernBertForSequenceClassification, per_text, "classifier", num_labels=3, classifier_pooling="mean", num_hidden_layers=2)
case("modernbert_tagger", ModernBertForTokenClassification, per_token, "classifier", num_labels=4, num_hidden_layers=2, classifier_bias=True)
