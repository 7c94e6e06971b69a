"""CLAP, sounds and texts: see common.py. Run with the packages of tools/parity/requirements.txt.

Sound i of a run is `values("input.i", [frames, bands])`. The reference regroups the last hidden states of the tower of
sounds by bands; here they stand as its last norm gives them.
"""

import torch
from common import run, values, write
from transformers import (
    ClapAudioConfig,
    ClapAudioModel,
    ClapAudioModelWithProjection,
    ClapConfig,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
)

AUDIO = {
    "window_size": 4,
    "num_mel_bins": 8,
    "spec_size": 32,
    "patch_size": 2,
    "patch_stride": [2, 2],
    "depths": [2, 2],
    "num_attention_heads": [2, 3],
    "patch_embeds_hidden_size": 6,
    "hidden_size": 12,
    "mlp_ratio": 2.0,
    "projection_dim": 7,
}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-5,
    "projection_dim": 7,
}
TEXTS = [[0, 17, 5, 9, 2], [0, 8, 2], [0, 11, 12, 13, 14, 15, 16, 17, 2]]
# A sound that is stretched, one much more, and one that is not.
SOUNDS = {"lengths": [100, 21, 128], "width": 8}


def sounds(inputs):
    return [values(f"input.{i}", [n, inputs["width"]])[None, None] for i, n in enumerate(inputs["lengths"])]


def grid(x, ratio, along):
    """The last hidden states `[1, channels, bands, times]` as tokens of a square grid, line by line."""
    channels, bands = x.shape[1:3]
    x = x.reshape(1, channels, bands, ratio, along).transpose(2, 3).reshape(1, channels, along, along)
    return x.flatten(2).transpose(1, 2)[0]


def encode(inputs, ratio, along, pooled):
    def forward(model):
        outputs = [model(x) for x in sounds(inputs)]
        tokens = torch.cat([grid(o.last_hidden_state, ratio, along) for o in outputs])
        return {"tokens": tokens, "pooled": torch.cat([pooled(o) for o in outputs])}

    return forward


def texts(model):
    outputs = [model(input_ids=torch.tensor([t])) for t in TEXTS]
    tokens = torch.cat([o.last_hidden_state[0] for o in outputs])
    return {"tokens": tokens, "pooled": torch.cat([o.text_embeds for o in outputs])}


def compare(model):
    def unit(x):
        return torch.nn.functional.normalize(x, dim=-1)

    audio = torch.cat([unit(model.get_audio_features(input_features=x).pooler_output) for x in sounds(SOUNDS)])
    text = torch.cat([unit(model.get_text_features(input_ids=torch.tensor([t])).pooler_output) for t in TEXTS])
    one = [[model(input_ids=torch.tensor([t]), input_features=x) for t in TEXTS] for x in sounds(SOUNDS)]
    return {
        "sounds": audio,
        "texts": text,
        "logits_per_audio": torch.cat([torch.cat([o.logits_per_audio for o in row], 1) for row in one]),
        "logits_per_text": torch.cat([torch.cat([o.logits_per_text for o in row], 0) for row in one], 1),
    }


def case(name, model_class, config, part, inputs, forward):
    written, tensors, result = run(model_class, config, part, inputs, forward)
    write(name, written, tensors, [result])


case("clap_audio", ClapAudioModelWithProjection, ClapAudioConfig(**AUDIO), "audio", SOUNDS, encode(SOUNDS, 4, 8, lambda o: o.audio_embeds))
other = {"lengths": [40], "width": 8}
config = ClapAudioConfig(**(AUDIO | {"depths": [1, 1, 2], "num_attention_heads": [1, 2, 2], "patch_embeds_hidden_size": 4, "hidden_size": 16, "window_size": 2, "qkv_bias": False, "hidden_act": "relu", "projection_hidden_act": "gelu"}))
case("clap_audio_three_stages", ClapAudioModelWithProjection, config, "audio", other, encode(other, 4, 4, lambda o: o.audio_embeds))
case("clap_audio_alone", ClapAudioModel, ClapAudioConfig(**AUDIO), "audio", SOUNDS, encode(SOUNDS, 4, 8, lambda o: o.pooler_output))
case("clap_text", ClapTextModelWithProjection, ClapTextConfig(**TEXT), "text", {"tokens": TEXTS}, texts)
case("clap", ClapModel, ClapConfig(text_config=TEXT, audio_config=AUDIO, projection_dim=7), "audio_text", SOUNDS | {"tokens": TEXTS}, compare)
