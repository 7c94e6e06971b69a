"""Objectives without labels: see common.py. Run with the packages of tools/parity/requirements.txt.

What is hidden is given, so that losses and gradients are those of the same guesses.
"""

import torch
from common import run, values, write
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

TEXTS = [[2, 17, 5, 9, 30, 3], [2, 8, 3, 11, 12, 21], [2, 14, 15, 16, 17, 3]]
LABELS = [[-100, 17, -100, -100, 6, -100], [-100, -100, -100, 11, -100, -100], [-100, 14, 33, -100, -100, -100]]


def texts(name, model_class, config, head, labels):
    def forward(model):
        return {"loss": model(input_ids=torch.tensor(TEXTS), labels=torch.tensor(labels)).loss.reshape(1)}

    inputs = {"tokens": TEXTS, "labels": labels}
    written, tensors, result = run(model_class, config, "text" if head else "decoder", inputs, forward, head)
    write(name, written, tensors, [result])


small = {"vocab_size": 40, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
texts("bert_masked_lm_loss", BertForMaskedLM, BertConfig(**small, max_position_embeddings=24), "masked_lm", LABELS)
texts("gpt2_causal_lm_loss", GPT2LMHeadModel, GPT2Config(vocab_size=40, n_positions=24, n_embd=12, n_layer=2, n_head=3), None, TEXTS)
llama = LlamaConfig(**small, num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=24)
texts("llama_causal_lm_loss", LlamaForCausalLM, llama, None, TEXTS)

IMAGES = values("pixels", [2, 3, 12, 12])
# Five of nine patches of each picture.
HIDDEN = [[1, 0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 1, 1, 0, 1, 0, 1, 0]]
small.pop("vocab_size")
vit = {**small, "image_size": 12, "patch_size": 4, "encoder_stride": 4}


def simmim(model):
    # The reference divides by the pixels that are hidden plus 1e-5.
    loss = model(pixel_values=IMAGES, bool_masked_pos=torch.tensor(HIDDEN).bool()).loss
    return {"loss": loss.reshape(1)}


def mae(model):
    # What has the least noise is kept.
    noise = torch.tensor(HIDDEN).float() + torch.arange(9) / 100
    return {"loss": model(pixel_values=IMAGES, noise=noise).loss.reshape(1)}


images = {"images": [2, 3, 12, 12], "hidden": HIDDEN}
written, tensors, result = run(ViTForMaskedImageModeling, ViTConfig(**vit), "image", images, simmim, "masked_image")
write("vit_simmim_loss", written, tensors, [result])
for norm in (True, False):
    config = ViTMAEConfig(
        **small, image_size=12, patch_size=4, decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=32, mask_ratio=5 / 9 - 1e-3, norm_pix_loss=norm,
    )
    written, tensors, result = run(ViTMAEForPreTraining, config, "image", images, mae, "masked_image")
    # Positions of the decoder are constants (sines and cosines), whatever a loaded model makes of them.
    result["gradients"].pop("decoder.decoder_pos_embed", None)
    write(f"vit_mae_{'normalised' if norm else 'plain'}_loss", written, tensors, [result])


def captions(model):
    # As for the other causal models, the first token is not asked for: it is what the decoder starts with.
    inputs, labels = torch.tensor(TEXTS[:2])[:, :-1], torch.tensor(TEXTS[:2])[:, 1:]
    return {"loss": model(pixel_values=IMAGES, decoder_input_ids=inputs, labels=labels).loss.reshape(1)}


decoder = GPT2Config(vocab_size=40, n_positions=24, n_embd=12, n_layer=2, n_head=3)
pair = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**vit), decoder)
inputs = {"images": [2, 3, 12, 12], "tokens": TEXTS[:2]}
written, tensors, result = run(VisionEncoderDecoderModel, pair, "decoder", inputs, captions)
write("vit_gpt2_caption_loss", written, tensors, [result])
