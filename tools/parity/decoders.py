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
    MT5Config,
    MT5ForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

ANSWERS = [[0, 6, 19], [0, 4, 4, 28, 31, 1, 12, 13], [0]]
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


def translate(texts):
    def forward(model):
        outputs = [
            model(input_ids=torch.tensor([t]), decoder_input_ids=torch.tensor([a]), output_hidden_states=True)
            for t, a in zip(texts, ANSWERS)
        ]
        result = {
            "logits": torch.cat([o.logits[0] for o in outputs]),
            "tokens": torch.cat([o.encoder_last_hidden_state[0] for o in outputs]),
        }
        if model.config.num_decoder_layers > 1:
            result["hidden_1"] = torch.cat([o.decoder_hidden_states[1][0] for o in outputs])
        return result

    return forward


class UntiedT5(T5ForConditionalGeneration):
    """T5 1.1 as its files are: with an output of its own."""

    _tied_weights_keys = {k: v for k, v in T5ForConditionalGeneration._tied_weights_keys.items() if k != "lm_head.weight"}


def classify(texts):
    def forward(model):
        return {"head": torch.cat([model(input_ids=torch.tensor([t])).logits for t in texts])}

    return forward


def case(name, model_class, config, part="decoder", forward=decode, head=None, texts=TEXTS):
    inputs = {"tokens": texts} | ({"answers": ANSWERS} if forward is translate else {})
    written, tensors, result = run(model_class, config, part, inputs, forward(texts), head)
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


def t5(cls=T5Config, **more):
    base = {
        "vocab_size": 32,
        "d_model": 12,
        "d_kv": 5,
        "d_ff": 20,
        "num_layers": 2,
        "num_heads": 3,
        "relative_attention_num_buckets": 6,
        "relative_attention_max_distance": 7,
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
case("smollm3", SmolLM3ForCausalLM, small(SmolLM3Config, no_rope_layer_interval=2, pad_token_id=0))
case("t5", T5ForConditionalGeneration, t5(), "decoder", translate)
case("t5_gated", T5ForConditionalGeneration, t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1, num_heads=2), "decoder", translate)
case("t5_gated_silu_far", T5ForConditionalGeneration, t5(feed_forward_proj="gated-silu", num_layers=1), "decoder", translate, texts=[[2, 11, 12, 13] * 6, *TEXTS[:2]])
case("t5_untied", UntiedT5, t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_layers=1), "decoder", translate)
case("t5_encoder", T5EncoderModel, t5(num_heads=1, layer_norm_epsilon=1e-3), "text", encode)
case("mt5", MT5ForConditionalGeneration, t5(MT5Config, num_layers=1), "decoder", translate)
