"""The other side of `bench/compare`: the same work in Python, one step for each line of standard input.

    python bench/peer.py versions               the libraries' versions
    python bench/peer.py bare LIBRARY           only imports it, then waits: what the interpreter takes alone
    python bench/peer.py prepare SHAPE FOLDER   a model of random weights, as `save_pretrained` writes it
    python bench/peer.py run CASE.json          answers a batch's number with {"ms": …, "values": […]}

CASE.json is that of crates/model/examples/step.rs, with the peer's own settings under "peer".
"""

import json
import os
import sys
import time

# Nothing here needs it, and one built for another torch than the one installed keeps transformers from loading.
sys.modules["torchaudio"] = None
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "shapes.json"), encoding="utf-8") as file:
    SHAPES = json.load(file)


def say(answer):
    print(answer if isinstance(answer, str) else json.dumps(answer), flush=True)


def versions():
    import importlib.metadata as metadata

    names = ("torch", "transformers", "peft", "onnxruntime", "onnx", "numpy")
    say({"python": sys.version.split()[0], **{n: metadata.version(n) for n in names}})


def model_class(config):
    import transformers

    return {
        "bert": transformers.BertForSequenceClassification,
        "clip": transformers.CLIPModel,
        "vit": transformers.ViTForImageClassification,
        "whisper": transformers.WhisperForAudioClassification,
    }[config["model_type"]]


def prepare(shape, folder):
    import torch

    torch.manual_seed(0)
    cls = model_class(SHAPES[shape])
    model = cls(cls.config_class(**SHAPES[shape]))
    with torch.no_grad():
        # As trained weights have them: biases that are not 0, norms that are not 1.
        for parameter in model.parameters():
            if parameter.dim() == 1 and parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)


def scatter(count):
    """24 bits that follow from each place."""
    import numpy as np

    return ((np.arange(count, dtype=np.uint64) * 2654435761) % 2**32).astype(np.uint32) >> 8


def inputs(config, lengths):
    """The batch of samples of these lengths, by the model's argument names, as arrays; texts padded to the longest."""
    import numpy as np

    def reals(*dims):
        return (scatter(int(np.prod(dims))).astype(np.float32) / np.float32(2**23) - 1).reshape(dims)

    if config["model_type"] == "vit":
        return {"pixel_values": reals(len(lengths), 3, config["image_size"], config["image_size"])}
    if config["model_type"] == "whisper":
        frames = reals(len(lengths), lengths[0], config["num_mel_bins"])
        return {"input_features": np.ascontiguousarray(frames.transpose(0, 2, 1))}
    pictures = {}
    if config["model_type"] == "clip":
        size = config["vision_config"]["image_size"]
        pictures = {"pixel_values": reals(len(lengths), 3, size, size)}
        config = config["text_config"]
    # CLIP's last token marks the end of a text.
    tokens = 1 + scatter(sum(lengths)).astype(np.int64) % (config["vocab_size"] - 1 - bool(pictures))
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    mask = np.zeros_like(ids)
    start = 0
    for row, length in enumerate(lengths):
        ids[row, :length] = tokens[start : start + length]
        if pictures:
            ids[row, length - 1] = config["vocab_size"] - 1
        mask[row, :length] = 1
        start += length
    # Where nothing is padded, no mask is cheaper than one of ones.
    return {"input_ids": ids, **pictures} if mask.all() else {"input_ids": ids, "attention_mask": mask, **pictures}


def torch_steps(case, batches):
    """What runs a batch; `batches` are arrays by the names of the inputs."""
    import torch

    torch.set_num_threads(case["threads"])
    config = SHAPES[case["shape"]]
    model = model_class(config).from_pretrained(case["folder"], attn_implementation="sdpa")
    batches = [{name: torch.from_numpy(array) for name, array in batch.items()} for batch in batches]
    if case["work"] == "lora":
        import peft

        settings = peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=8, target_modules=["query", "value"])
        model = peft.get_peft_model(model, settings)
    call = torch.compile(model, dynamic=case["peer"]["dynamic"]) if case["peer"]["compile"] else model
    if case["work"] == "infer":
        model.eval()

        def infer(number):
            with torch.inference_mode():
                return call(**batches[number]).logits[0].tolist()

        return infer
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.01, fused=True)
    labels = [torch.arange(len(lengths)) % model.config.num_labels for lengths in case["batches"]]

    def loss_of(number):
        if case["work"] == "contrastive":
            return call(**batches[number], return_loss=True).loss
        return torch.nn.functional.cross_entropy(call(**batches[number]).logits, labels[number])

    def train(number):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        return [loss.item()]

    return train


def run(path):
    with open(path, encoding="utf-8") as file:
        case = json.load(file)
    batches = [inputs(SHAPES[case["shape"]], lengths) for lengths in case["batches"]]
    if case["peer"]["library"] == "onnxruntime":
        import onnx_peer

        step = onnx_peer.steps(case, batches)
    else:
        step = torch_steps(case, batches)
    say("ready")
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(case["repeat"]):
            values = step(int(line))
        say({"ms": (time.perf_counter() - started) * 1e3 / case["repeat"], "values": values})


def bare(library):
    if library == "onnxruntime":
        import onnxruntime  # noqa: F401
    else:
        model_class({"model_type": "bert"})
    say("ready")
    sys.stdin.read()


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    {"versions": versions, "bare": bare, "prepare": prepare, "run": run}[action](*arguments)
