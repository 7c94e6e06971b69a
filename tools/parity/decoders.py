"""Decoders: see common.py. Run with the packages of tools/parity/requirements.txt."""

import torch
from common import run, write
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

TEXTS = [[2, 17, 5, 9, 30, 3, 8, 8, 21], [7], [2, 11, 12, 13]]


def decode(texts):
    def forward(model):
        outputs = [model(input_ids=torch.tensor([t]), output_hidden_states=True) for t in texts]
        return {
            "logits": torch.cat([o.logits[0] for o in outputs]),
            "hidden_1": torch.cat([o.hidden_states[1][0] for o in outputs]),
            "hidden": torch.cat([o.hidden_states[-1][0] for o in outputs]),
        }

    return forward


def encode(texts):
    def forward(model):
        return {"tokens": torch.cat([model(input_ids=torch.tensor([t])).last_hidden_state[0] for t in texts])}

    return forward


def classify(texts):
    def forward(model):
        return {"head": torch.cat([model(input_ids=torch.tensor([t])).logits for t in texts])}

    return forward


def case(name, model_class, config, part="decoder", forward=decode, head=None, texts=TEXTS):
    written, tensors, result = run(model_class, config, part, {"tokens": texts}, forward(texts), head)
    write(name, written, tensors, [result])


def gpt2(**more):
    base = {"vocab_size": 32, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16}
    return GPT2Config(**(base | more))


def small(cls, **more):
    base = {
        "vocab_size": 32,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 4,
        "intermediate_size": 20,
        "max_position_embeddings": 64,
    }
    return cls(**(base | more))


def rope(kind, theta=100.0, **more):
    return {"rope_type": kind, "rope_theta": theta} | more


case("gpt2", GPT2LMHeadModel, gpt2())
case("gpt2_untied_relu", GPT2LMHeadModel, gpt2(tie_word_embeddings=False, activation_function="relu", n_inner=10, n_head=1, layer_norm_epsilon=1e-3))
case("gpt2_text", GPT2Model, gpt2(), "text", encode)
case("llama", LlamaForCausalLM, small(LlamaConfig))
case("llama_grouped_tied_biases", LlamaForCausalLM, small(LlamaConfig, num_attention_heads=6, num_key_value_heads=2, head_dim=6, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, hidden_act="gelu", rms_norm_eps=1e-3))
case("llama_linear", LlamaForCausalLM, small(LlamaConfig, rope_parameters=rope("linear", factor=2.5)))
case("llama_llama3", LlamaForCausalLM, small(LlamaConfig, head_dim=12, num_hidden_layers=1, rope_parameters=rope("llama3", 40.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0, original_max_position_embeddings=24)))
case("llama_yarn", LlamaForCausalLM, small(LlamaConfig, head_dim=12, num_hidden_layers=1, rope_parameters=rope("yarn", 40.0, factor=4.0, beta_fast=4.0, original_max_position_embeddings=16)))
case("llama_text", LlamaModel, small(LlamaConfig, num_key_value_heads=1), "text", encode)
case("llama_classifier", LlamaForSequenceClassification, small(LlamaConfig, num_labels=3), "text", classify, "classifier")
case("mistral", MistralForCausalLM, small(MistralConfig, sliding_window=3, num_key_value_heads=1))
case("mistral_no_window", MistralForCausalLM, small(MistralConfig, sliding_window=None, tie_word_embeddings=True))
case("qwen2", Qwen2ForCausalLM, Qwen2Config(**{k: v for k, v in small(Qwen2Config, tie_word_embeddings=True, num_key_value_heads=1).to_dict().items() if k != "head_dim"}))
case("qwen2_window", Qwen2ForCausalLM, small(Qwen2Config, use_sliding_window=True, sliding_window=2, max_window_layers=1, rope_parameters=rope("default", 1e6)))
case("qwen3", Qwen3ForCausalLM, small(Qwen3Config, head_dim=6, num_key_value_heads=1))
case("qwen3_biases_tied", Qwen3ForCausalLM, small(Qwen3Config, head_dim=8, attention_bias=True, tie_word_embeddings=True))
case("qwen3_text", Qwen3Model, small(Qwen3Config), "text", encode)
