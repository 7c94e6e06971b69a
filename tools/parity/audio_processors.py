"""Feature extractors of sound: what the reference library makes of a sound that both sides make up from integers.

Writes crates/data/tests/golden/audio_processors.json; run with the packages of tools/parity/requirements.txt (without
torchaudio, so that AST's extractor computes its filter banks itself).
"""

import json
import pathlib

import numpy as np
from transformers import ASTFeatureExtractor, ClapFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

SAMPLES = 20_000


def sound():
    """A triangle that swells and fades with noise on it, in 16-bit steps (see crates/data/tests/audio_processors.rs)."""
    i = np.arange(SAMPLES, dtype=np.int64)
    triangle = np.abs((i * 37) % 2000 - 1000) * 20 - 10_000
    noise = (i * 7919 + (i * i) % 104_729) % 2001 - 1000
    return (triangle * (i % 4000) // 4000 + noise).astype(np.int16).astype(np.float32) / 32768


def case(name, extractor, key, step):
    config = extractor.to_dict()
    for computed in ("mel_filters", "window"):
        config.pop(computed, None)
    features = extractor(sound(), sampling_rate=extractor.sampling_rate, return_tensors="np")[key][0]
    if isinstance(extractor, ClapFeatureExtractor):
        features = features[0]
    elif key == "input_features":
        features = features.T
    features = features.reshape(len(features), -1)
    values = [round(float(x), 6) for x in features.astype(np.float32).flatten()[::step]]
    return {"name": name, "config": config, "shape": list(features.shape), "step": step, "values": values}


cases = [
    case("whisper", WhisperFeatureExtractor(), "input_features", 487),
    case("whisper, more bands and a shorter window", WhisperFeatureExtractor(feature_size=128, chunk_length=2), "input_features", 53),
    case("whisper, cut", WhisperFeatureExtractor(chunk_length=1), "input_features", 17),
    case("wav2vec 2.0", Wav2Vec2FeatureExtractor(), "input_values", 61),
    case("wav2vec 2.0, as it is", Wav2Vec2FeatureExtractor(do_normalize=False), "input_values", 61),
    case("AST", ASTFeatureExtractor(), "input_values", 311),
    case("CLAP", ClapFeatureExtractor(truncation="rand_trunc"), "input_features", 487),
    case("CLAP, few bands of a short sound", ClapFeatureExtractor(truncation="rand_trunc", feature_size=20, max_length_s=1, frequency_min=50, frequency_max=12_000), "input_features", 7),
    case("AST, cut and not normalised", ASTFeatureExtractor(max_length=60, num_mel_bins=40, do_normalize=False), "input_values", 5),
]
path = pathlib.Path(__file__).parents[2] / "crates/data/tests/golden/audio_processors.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
print(f"{len(cases)} cases, {path.stat().st_size // 1024} KB")
