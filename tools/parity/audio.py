"""Audio encoders: see common.py. Run with the packages of tools/parity/requirements.txt.

Inputs are not written: sound i of a run is `values("input.i", [frames, width])`.
"""

import common
import torch
from common import run, values, write
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    ASTModel,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMForCTC,
    WavLMForSequenceClassification,
    WavLMModel,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)


def sounds(inputs):
    return [values(f"input.{i}", [n, inputs["width"]]) for i, n in enumerate(inputs["lengths"])]


def spectrogram(x):
    return x[None]


def whisper_frames(x):
    return x.T[None]


def samples(x):
    return x.T


def freeze_positions(model):
    """Whisper's encoder positions are constants; a loaded model of the reference forgets that."""
    for name, p in model.named_parameters():
        if name.endswith("encoder.embed_positions.weight"):
            p.requires_grad_(False)


def encode(inputs, prepare, pooled=lambda o: o.last_hidden_state.mean(1)):
    def forward(model):
        freeze_positions(model)
        model = getattr(model, "model", model)
        encoder = model.encoder if hasattr(model, "decoder") else model
        outputs = [encoder(prepare(x)) for x in sounds(inputs)]
        tokens = torch.cat([o.last_hidden_state[0] for o in outputs])
        return {"tokens": tokens, "pooled": torch.cat([pooled(o) for o in outputs])}

    return forward


def head(inputs, prepare, per_token=False):
    def forward(model):
        freeze_positions(model)
        outputs = [model(prepare(x)).logits for x in sounds(inputs)]
        return {"head": torch.cat([o[0] if per_token else o for o in outputs])}

    return forward


def decode(inputs):
    def forward(model):
        freeze_positions(model)
        texts = zip(sounds(inputs), inputs["tokens"])
        outputs = [model(whisper_frames(x), decoder_input_ids=torch.tensor([t])).logits for x, t in texts]
        return {"logits": torch.cat([o[0] for o in outputs])}

    return forward


def case(name, model_class, config, inputs, forward, head=None, part="audio"):
    written, tensors, result = run(model_class, config, part, inputs, forward, head)
    write(name, written, tensors, [result])


def whisper(**more):
    base = {
        "vocab_size": 30,
        "d_model": 12,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 3,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 20,
        "decoder_ffn_dim": 20,
        "num_mel_bins": 8,
        "max_source_positions": 10,
        "max_target_positions": 12,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    return WhisperConfig(**(base | more))


def wav2vec2(cls, **more):
    base = {
        "vocab_size": 11,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "conv_dim": (6, 8),
        "conv_stride": (3, 2),
        "conv_kernel": (4, 3),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "classifier_proj_size": 5,
    }
    return cls(**(base | more))


def ast(**more):
    base = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "patch_size": 4,
        "max_length": 16,
        "num_mel_bins": 10,
        "frequency_stride": 3,
        "time_stride": 4,
    }
    return ASTConfig(**(base | more))


two = {"lengths": [20, 20], "width": 8}
case("whisper", WhisperModel, whisper(), two, encode(two, whisper_frames))
wide = {"lengths": [14], "width": 5}
case("whisper_relu_one_head", WhisperModel, whisper(activation_function="relu", encoder_attention_heads=1, num_mel_bins=5, max_source_positions=7, encoder_layers=1), wide, encode(wide, whisper_frames))
case("whisper_generation", WhisperForConditionalGeneration, whisper(encoder_layers=1), two, encode(two, whisper_frames))
case("whisper_classifier", WhisperForAudioClassification, whisper(num_labels=3, classifier_proj_size=7, encoder_layers=1), two, head(two, whisper_frames), "classifier")
texts = two | {"tokens": [[3, 8, 21, 8, 5], [4, 9, 17]]}
case("whisper_decoder", WhisperForConditionalGeneration, whisper(decoder_layers=2, encoder_layers=1), texts, decode(texts), part="decoder")
case("whisper_decoder_untied", WhisperForConditionalGeneration, whisper(tie_word_embeddings=False, decoder_attention_heads=2, decoder_ffn_dim=9, encoder_layers=1, activation_function="relu"), texts, decode(texts), part="decoder")

sound = {"lengths": [61, 97], "width": 1}
case("wav2vec2", Wav2Vec2Model, wav2vec2(Wav2Vec2Config), sound, encode(sound, samples))
case("wav2vec2_stable", Wav2Vec2Model, wav2vec2(Wav2Vec2Config, do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True, num_conv_pos_embeddings=5, num_conv_pos_embedding_groups=3), sound, encode(sound, samples))
case("wav2vec2_layer_post", Wav2Vec2Model, wav2vec2(Wav2Vec2Config, feat_extract_norm="layer", hidden_act="relu", feat_extract_activation="silu", layer_norm_eps=1e-3), sound, encode(sound, samples))
case("wav2vec2_ctc", Wav2Vec2ForCTC, wav2vec2(Wav2Vec2Config), sound, head(sound, samples, True), "ctc")
case("wav2vec2_classifier", Wav2Vec2ForSequenceClassification, wav2vec2(Wav2Vec2Config, num_labels=4), sound, head(sound, samples), "classifier")
case("wav2vec2_frame_classifier", Wav2Vec2ForAudioFrameClassification, wav2vec2(Wav2Vec2Config, num_labels=3), sound, head(sound, samples, True), "classifier")
case("hubert", HubertModel, wav2vec2(HubertConfig), sound, encode(sound, samples))
case("hubert_no_projection_norm", HubertModel, wav2vec2(HubertConfig, feat_proj_layer_norm=False, do_stable_layer_norm=True, feat_extract_norm="layer"), sound, encode(sound, samples))
case("hubert_ctc", HubertForCTC, wav2vec2(HubertConfig), sound, head(sound, samples, True), "ctc")

# Distances beyond the last bucket too.
far = {"lengths": [61, 150], "width": 1}
gated = {"num_buckets": 8, "max_bucket_distance": 9}
case("wavlm", WavLMModel, wav2vec2(WavLMConfig, **gated), far, encode(far, samples))
case("wavlm_stable", WavLMModel, wav2vec2(WavLMConfig, **gated, do_stable_layer_norm=True, feat_extract_norm="layer", num_attention_heads=2, num_hidden_layers=3), far, encode(far, samples))
case("wavlm_default_buckets", WavLMModel, wav2vec2(WavLMConfig, num_hidden_layers=1, conv_bias=True), sound, encode(sound, samples))
case("wavlm_ctc", WavLMForCTC, wav2vec2(WavLMConfig, **gated), sound, head(sound, samples, True), "ctc")
case("wavlm_classifier", WavLMForSequenceClassification, wav2vec2(WavLMConfig, **gated, num_labels=4), sound, head(sound, samples), "classifier")

spectrograms = {"lengths": [16, 16], "width": 10}
first_two = lambda o: o.pooler_output
case("ast", ASTModel, ast(), spectrograms, encode(spectrograms, spectrogram, first_two))
case("ast_no_bias", ASTModel, ast(qkv_bias=False, patch_size=5, frequency_stride=5, time_stride=2, hidden_act="relu"), spectrograms, encode(spectrograms, spectrogram, first_two))
case("ast_classifier", ASTForAudioClassification, ast(num_labels=5), spectrograms, head(spectrograms, spectrogram), "classifier")

# The names that weight norm had before it was a parametrization, as in most checkpoints.
OLD = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
read = common.on_disk


def old_names(folder):
    def old(name):
        for new, before in OLD.items():
            name = name.replace(new, before)
        return name

    return {old(k): v for k, v in read(folder).items()}


common.on_disk = old_names
case("wav2vec2_old_names", Wav2Vec2Model, wav2vec2(Wav2Vec2Config, num_hidden_layers=1), sound, encode(sound, samples))
