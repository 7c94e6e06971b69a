"""Encoders of pictures, and of pictures and texts: see common.py. Run with the packages of
tools/parity/requirements.txt."""

import torch
from common import run, values, write
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    BeitModel,
    BlipConfig,
    BlipModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

IMAGE = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 12,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 40,
    "max_position_embeddings": 9,
}
# The last token of each is the end-of-text token of CLIP's texts.
TEXTS = [[2, 17, 5, 9, 39], [2, 8, 39], [2, 11, 12, 13, 14, 15, 16, 17, 39]]


def pixels(n, size):
    return values("pixels", [n, 3, size, size])


def encode(size, pooled=True, **more):
    def forward(model):
        o = model(pixel_values=pixels(2, size), **more)
        found = {"tokens": o.last_hidden_state.flatten(0, 1)}
        return found | {"pooled": o.pooler_output} if pooled else found

    return forward


def classify(size, **more):
    return lambda model: {"head": model(pixel_values=pixels(2, size), **more).logits}


def image_case(name, model_class, config, forward, size=12, head=None):
    written, tensors, result = run(model_class, config, "image", {"images": [2, 3, size, size]}, forward, head)
    write(name, written, tensors, [result])


def text_case(name, model_class, config, forward):
    written, tensors, result = run(model_class, config, "text", {"tokens": TEXTS}, forward)
    write(name, written, tensors, [result])


def padded(text, length, token):
    return text + [token] * (length - len(text))


def compare(texts):
    """Embeddings and logits of a pair of towers: the texts one by one, as packed ones are."""

    def forward(model):
        image = model.get_image_features(pixel_values=pixels(2, 12)).pooler_output
        text = torch.cat([model.get_text_features(input_ids=torch.tensor([t])).pooler_output for t in texts])
        outputs = {
            "images": torch.nn.functional.normalize(image, dim=-1),
            "texts": torch.nn.functional.normalize(text, dim=-1),
        }
        if len({len(t) for t in texts}) == 1:
            logits = model(input_ids=torch.tensor(texts), pixel_values=pixels(2, 12)).logits_per_image
        else:
            # Columns of the reference's logits are independent of each other.
            one = [model(input_ids=torch.tensor([t]), pixel_values=pixels(2, 12)).logits_per_image for t in texts]
            logits = torch.cat(one, dim=1)
        return outputs | {"logits": logits}

    return forward


def pair_case(name, model_class, config, texts=None):
    inputs = {"images": [2, 3, 12, 12], "tokens": TEXTS}
    written, tensors, result = run(model_class, config, "image_text", inputs, compare(texts or TEXTS))
    write(name, written, tensors, [result])


def text_embeds(model):
    outputs = [model(input_ids=torch.tensor([t])) for t in TEXTS]
    pooled = [getattr(o, "text_embeds", None) if hasattr(o, "text_embeds") else o.pooler_output for o in outputs]
    return {"tokens": torch.cat([o.last_hidden_state[0] for o in outputs]), "pooled": torch.cat(pooled)}


def siglip_text(model):
    outputs = [model(input_ids=torch.tensor([padded(t, 9, 1)])) for t in TEXTS]
    return {
        "tokens": torch.cat([o.last_hidden_state[0] for o in outputs]),
        "pooled": torch.cat([o.pooler_output for o in outputs]),
    }


def small(cls, **more):
    return cls(**(IMAGE | more))


def pair(cls, text={}, image={}, **more):
    return cls(text_config=TEXT | text, vision_config=IMAGE | image, **more)


larger = {"interpolate_pos_encoding": True}
image_case("vit", ViTModel, small(ViTConfig), encode(12))
image_case("vit_no_bias_relu", ViTModel, small(ViTConfig, qkv_bias=False, hidden_act="relu", num_attention_heads=1, patch_size=5, image_size=11), encode(11), 11)
image_case("vit_larger", ViTModel, small(ViTConfig, num_hidden_layers=1), encode(20, **larger), 20)
image_case("vit_smaller", ViTModel, small(ViTConfig, num_hidden_layers=1, image_size=20), encode(12, **larger))
image_case("vit_classifier", ViTForImageClassification, small(ViTConfig, num_labels=5, hidden_act="gelu_new"), classify(12), head="classifier")
image_case("deit", DeiTModel, small(DeiTConfig), encode(12))
image_case("deit_larger", DeiTModel, small(DeiTConfig, num_hidden_layers=1), encode(16, **larger), 16)
image_case("deit_classifier", DeiTForImageClassification, small(DeiTConfig, num_labels=3), classify(12), head="classifier")
image_case("deit_teacher", DeiTForImageClassificationWithTeacher, small(DeiTConfig, num_labels=3, qkv_bias=False), classify(12), head="classifier")
image_case("dinov2", Dinov2Model, small(Dinov2Config, layerscale_value=0.5), encode(12))
image_case("dinov2_swiglu", Dinov2Model, small(Dinov2Config, use_swiglu_ffn=True, num_attention_heads=1, hidden_size=10), encode(12))
image_case("dinov2_smaller", Dinov2Model, small(Dinov2Config, num_hidden_layers=1, image_size=20), encode(12))
image_case("dinov2_classifier", Dinov2ForImageClassification, small(Dinov2Config, num_labels=4, mlp_ratio=2), classify(12), head="classifier")
image_case("dinov2_registers", Dinov2WithRegistersModel, small(Dinov2WithRegistersConfig, num_register_tokens=3), encode(12))
image_case("dinov2_registers_smaller", Dinov2WithRegistersModel, small(Dinov2WithRegistersConfig, num_hidden_layers=1, image_size=24, num_register_tokens=1), encode(12))
image_case("dinov2_registers_larger", Dinov2WithRegistersModel, small(Dinov2WithRegistersConfig, num_hidden_layers=1), encode(20), 20)
image_case("dinov2_registers_classifier", Dinov2WithRegistersForImageClassification, small(Dinov2WithRegistersConfig, num_labels=3, use_swiglu_ffn=True), classify(12), head="classifier")
pair_case("clip", CLIPModel, pair(CLIPConfig, text={"eos_token_id": 39}, projection_dim=6))
pair_case("clip_gelu", CLIPModel, pair(CLIPConfig, text={"eos_token_id": 2, "hidden_act": "gelu", "num_hidden_layers": 1}, image={"hidden_act": "gelu", "num_attention_heads": 1, "num_hidden_layers": 1}, projection_dim=5))
image_case("clip_vision", CLIPVisionModel, small(CLIPVisionConfig), encode(12))
image_case("clip_vision_larger", CLIPVisionModel, small(CLIPVisionConfig, num_hidden_layers=1), encode(16, **larger), 16)
image_case("clip_classifier", CLIPForImageClassification, pair(CLIPConfig, num_labels=3), classify(12), head="classifier")
text_case("clip_text", CLIPTextModelWithProjection, CLIPTextConfig(**TEXT, eos_token_id=39, projection_dim=5), text_embeds)
pair_case("chinese_clip", ChineseCLIPModel, pair(ChineseCLIPConfig, projection_dim=6))
pair_case("siglip", SiglipModel, pair(SiglipConfig, text={"projection_size": 12}), [padded(t, 9, 1) for t in TEXTS])
image_case("siglip_vision", SiglipVisionModel, small(SiglipVisionConfig, num_attention_heads=1, hidden_act="gelu"), encode(12))
image_case("siglip_vision_larger", SiglipVisionModel, small(SiglipVisionConfig, num_hidden_layers=1, vision_use_head=False), encode(20, False, **larger), 20)
image_case("siglip_classifier", SiglipForImageClassification, pair(SiglipConfig, num_labels=3), classify(12), head="classifier")
text_case("siglip_text", SiglipTextModel, SiglipTextConfig(**TEXT, projection_size=5), siglip_text)
pair_case("blip", BlipModel, pair(BlipConfig, text={"num_hidden_layers": 1}, image={"num_hidden_layers": 1}, projection_dim=5))
image_case("beit", BeitModel, small(BeitConfig, use_relative_position_bias=True, layer_scale_init_value=0.3), encode(12))
image_case("beit_shared_first", BeitModel, small(BeitConfig, use_shared_relative_position_bias=True, use_mean_pooling=False, layer_scale_init_value=0.0), encode(12))
image_case("beit_classifier", BeitForImageClassification, small(BeitConfig, use_absolute_position_embeddings=True, num_hidden_layers=1, num_labels=3), classify(12), head="classifier")


def swin(**more):
    base = {
        "embed_dim": 6,
        "depths": (2, 3),
        "num_heads": (1, 3),
        "window_size": 2,
        "mlp_ratio": 2.0,
        "image_size": 16,
        "patch_size": 2,
    }
    return SwinConfig(**(base | more))


# Grids of 8 and 4 with windows of 2; then ones that windows do not cover: 9 and 5 with windows of 4, and 5 and 3 with
# windows of 3, where the second stage is one window.
image_case("swin", SwinModel, swin(), encode(16), 16)
image_case("swin_uneven", SwinModel, swin(image_size=18, window_size=4, qkv_bias=False, hidden_act="relu", layer_norm_eps=1e-2), encode(18), 18)
image_case("swin_one_window", SwinModel, swin(image_size=10, window_size=3, use_absolute_embeddings=True, depths=(2, 2)), encode(10), 10)
image_case("swin_classifier", SwinForImageClassification, swin(num_labels=5, depths=(1, 2), num_heads=(2, 4), embed_dim=4), classify(16), 16, "classifier")
