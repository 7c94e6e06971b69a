"""Encoders of videos: see common.py. Run with the packages of tools/parity/requirements.txt.

The tokens of TimeSformer stand time by time here, place by place in the reference; its space_only gives an answer
for each frame, of which the mean is taken here, as its authors do.
"""

import torch
from common import run, values, write
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEModel,
)

VIDEO = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
    "num_frames": 4,
}


def pixels(frames, size):
    return values("pixels", [2, frames, 3, size, size])


def videomae(**more):
    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 8}
    return VideoMAEConfig(**(VIDEO | decoder | more))


def timesformer(**more):
    return TimesformerConfig(**(VIDEO | {"num_frames": 3} | more))


def encode_mae(frames, size, mean=True):
    def forward(model):
        model = getattr(model, "videomae", model)
        x = model(pixels(frames, size)).last_hidden_state
        return {"tokens": x.flatten(0, 1), "pooled": x.mean(1) if mean else x[:, 0]}

    return forward


def by_time(x, frames):
    """Class token, then the tokens time by time instead of place by place."""
    rest = x[:, 1:].unflatten(1, (-1, frames)).transpose(1, 2).flatten(1, 2)
    return torch.cat([x[:, :1], rest], 1)


def encode_timesformer(frames, size, space=False):
    def forward(model):
        x = model(pixels(frames, size)).last_hidden_state
        if space:
            return {"tokens": x.flatten(0, 1), "pooled": x[:, 0].unflatten(0, (2, frames)).mean(1)}
        return {"tokens": by_time(x, frames).flatten(0, 1), "pooled": x[:, 0]}

    return forward


def classify(frames, size, space=False):
    def forward(model):
        logits = model(pixels(frames, size)).logits
        return {"head": logits.unflatten(0, (2, frames)).mean(1) if space else logits}

    return forward


def case(name, model_class, config, forward, frames, size=8, head=None):
    inputs = {"videos": [2, frames, 3, size, size]}
    written, tensors, result = run(model_class, config, "video", inputs, forward, head)
    write(name, written, tensors, [result])


case("videomae", VideoMAEModel, videomae(), encode_mae(4, 8), 4)
case("videomae_last_norm", VideoMAEModel, videomae(use_mean_pooling=False, qv_bias=False, tubelet_size=3, num_frames=6, image_size=9, patch_size=3, hidden_act="relu", layer_norm_eps=1e-3), encode_mae(6, 9, False), 6, 9)
case("videomae_classifier", VideoMAEForVideoClassification, videomae(num_labels=4, num_hidden_layers=1), classify(4, 8), 4, head="classifier")
case("videomae_pretraining", VideoMAEForPreTraining, videomae(num_hidden_layers=1), encode_mae(4, 8), 4)
case("timesformer", TimesformerModel, timesformer(), encode_timesformer(3, 8), 3)
case("timesformer_no_bias", TimesformerModel, timesformer(qkv_bias=False, num_frames=5, image_size=12, hidden_act="relu"), encode_timesformer(5, 12), 5, 12)
case("timesformer_joint", TimesformerModel, timesformer(attention_type="joint_space_time"), encode_timesformer(3, 8), 3)
case("timesformer_space", TimesformerModel, timesformer(attention_type="space_only"), encode_timesformer(3, 8, True), 3)
case("timesformer_classifier", TimesformerForVideoClassification, timesformer(num_labels=4, num_hidden_layers=1), classify(3, 8), 3, head="classifier")
case("timesformer_space_classifier", TimesformerForVideoClassification, timesformer(num_labels=4, num_hidden_layers=1, attention_type="space_only"), classify(3, 8, True), 3, head="classifier")
