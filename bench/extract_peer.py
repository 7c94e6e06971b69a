"""The other side of `bench/extract.py`: the same features from Python's libraries.

    python bench/extract_peer.py CASE.json

Answers each line of standard input with one of JSON: `load` imports, loads and warms up, `run` computes the features
of the case's columns and writes them, `memory` says the peak of the process.
"""

import glob
import json
import os
import sys
import time

# Nothing here needs it, and one built for another torch than the one installed keeps transformers from loading.
sys.modules["torchaudio"] = None
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def versions(*names):
    import importlib.metadata as metadata

    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def text(case):
    """sentence-transformers, which sorts by length and pads each batch to its longest."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(case["model"], device="cpu")
    return versions("sentence-transformers", "transformers", "torch"), lambda texts: model.encode(
        texts, batch_size=case["batch"], show_progress_bar=False
    )


def batched(case, one_batch):
    """A function of all files from one of a batch."""
    import numpy as np
    import torch

    def whole(files):
        with torch.inference_mode():
            parts = [one_batch(files[at : at + case["batch"]]) for at in range(0, len(files), case["batch"])]
        return np.concatenate(parts)

    return whole


def image(case):
    """Pillow decodes, transformers' processor prepares, its ViT computes; [CLS] is the vector."""
    import transformers
    from PIL import Image
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    processor = {"pil": ViTImageProcessorPil, "torchvision": transformers.ViTImageProcessor}[case["processor"]]
    processor = processor.from_pretrained(case["model"])
    model = transformers.ViTModel.from_pretrained(case["model"], add_pooling_layer=False).eval()

    def one_batch(files):
        pictures = [Image.open(file).convert("RGB") for file in files]
        prepared = processor(pictures, return_tensors="pt")
        return model(**prepared).last_hidden_state[:, 0].numpy()

    return versions("transformers", "torch", case["processor"].replace("pil", "pillow")), batched(case, one_batch)


# From OpenAI's names of the encoder's modules to those of transformers, in this order.
WHISPER = (
    ("positional_embedding", "embed_positions.weight"), ("blocks.", "layers."), ("ln_post", "layer_norm"),
    ("attn_ln", "self_attn_layer_norm"), ("mlp_ln", "final_layer_norm"), ("mlp.0", "fc1"), ("mlp.2", "fc2"),
    (".attn.query", ".self_attn.q_proj"), (".attn.key", ".self_attn.k_proj"), (".attn.value", ".self_attn.v_proj"),
    (".attn.out", ".self_attn.out_proj"),
)  # fmt: skip


def whisper(path):
    """The extractor and the encoder of a folder with transformers' weights, or OpenAI's `.pt`."""
    import torch
    import transformers

    extractor = transformers.WhisperFeatureExtractor.from_pretrained(path)
    published = glob.glob(os.path.join(path, "*.pt"))
    if not published:
        return extractor, transformers.WhisperModel.from_pretrained(path).get_encoder().eval()
    file = torch.load(published[0], map_location="cpu", weights_only=True)
    dims = file["dims"]
    config = transformers.WhisperConfig(
        num_mel_bins=dims["n_mels"], d_model=dims["n_audio_state"], encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"], encoder_ffn_dim=4 * dims["n_audio_state"],
        max_source_positions=dims["n_audio_ctx"],
    )  # fmt: skip
    weights = {}
    for name, tensor in file["model_state_dict"].items():
        if name.startswith("encoder."):
            name = name.removeprefix("encoder.")
            for theirs, ours in WHISPER:
                name = name.replace(theirs, ours)
            weights[name] = tensor.float()
    model = transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
    model.load_state_dict(weights)
    return extractor, model.eval()


def audio(case):
    """soundfile decodes, SciPy resamples, transformers' extractor and Whisper encoder compute; the mean is the vector."""
    import math

    import soundfile
    from scipy.signal import resample_poly

    extractor, model = whisper(case["model"])
    rate = extractor.sampling_rate

    def read(file):
        samples, own = soundfile.read(file, dtype="float32", always_2d=True)
        samples = samples.mean(axis=1)
        common = math.gcd(own, rate)
        return samples if own == rate else resample_poly(samples, rate // common, own // common).astype("float32")

    def one_batch(files):
        sounds = [read(file) for file in files]
        prepared = extractor(sounds, sampling_rate=rate, return_tensors="pt")
        return model(prepared.input_features).last_hidden_state.mean(dim=1).numpy()

    return versions("transformers", "torch", "soundfile", "scipy"), batched(case, one_batch)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        case = json.load(file)
    extract = None
    for line in sys.stdin:
        start = time.perf_counter()
        answer = {}
        if line.strip() == "load":
            import numpy as np
            import torch

            torch.set_num_threads(case["threads"])
            answer["peer"], extract = {"text": text, "image": image, "audio": audio}[case["kind"]](case)
            answer["seconds"] = time.perf_counter() - start
            extract(next(iter(case["columns"].values()))[: case["batch"]])
        elif line.strip() == "run":
            columns = {name: extract(values) for name, values in case["columns"].items()}
            answer["seconds"] = time.perf_counter() - start
            np.savez(case["out"], **columns)
        elif line.strip() == "memory":
            with open("/proc/self/status", encoding="utf-8") as file:
                answer["megabytes"] = next(int(x.split()[1]) for x in file if x.startswith("VmHWM")) / 1024
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
