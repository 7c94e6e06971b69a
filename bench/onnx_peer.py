"""ONNX Runtime's side of `bench/compare`.

    python bench/onnx_peer.py export FOLDER     FOLDER/{equal,masked}.onnx and, of each, FOLDER/….int8.onnx

`masked` takes an attention mask, for batches that are padded. The graphs are those of torch.onnx; the runtime does all
its optimisations (ORT_ENABLE_ALL) when it loads them. Exporting with eager or with fused attention, and the fusions of
onnxruntime.transformers.optimizer on top, were tried: what is here was the fastest, by up to 10 %.
"""

import json
import os
import sys


def export(folder):
    sys.modules["torchaudio"] = None  # as in peer.py
    import warnings

    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from peer import model_class

    warnings.simplefilter("ignore")
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    for name, attention in (("equal", "sdpa"), ("masked", "eager")):
        model = model_class(config).from_pretrained(folder, attn_implementation=attention).eval()
        if config["model_type"] == "bert":
            arguments = {"input_ids": torch.ones(2, 16, dtype=torch.long)}
            if name == "masked":
                arguments["attention_mask"] = torch.ones(2, 16, dtype=torch.long)
            free = {0: "texts", 1: "tokens"}
        elif name == "masked":
            continue
        elif config["model_type"] == "vit":
            arguments = {"pixel_values": torch.zeros(2, 3, config["image_size"], config["image_size"])}
            free = {0: "pictures"}
        else:
            arguments = {"input_features": torch.zeros(2, config["num_mel_bins"], 3000)}
            free = {0: "sounds"}
        path = os.path.join(folder, f"{name}.onnx")
        torch.onnx.export(Logits(model, list(arguments)), tuple(arguments.values()), path, dynamo=False, opset_version=17,
                          input_names=list(arguments), output_names=["logits"],
                          dynamic_axes={argument: free for argument in arguments})  # fmt: skip
        if config["model_type"] == "bert":
            ready = os.path.join(folder, f"{name}.ready.onnx")
            quant_pre_process(path, ready, skip_symbolic_shape=True)
            quantize_dynamic(ready, os.path.join(folder, f"{name}.int8.onnx"), per_channel=True,
                             weight_type=QuantType.QInt8)  # fmt: skip
            os.remove(ready)


def Logits(model, names):
    """The model as a module of positional arguments that gives the logits alone."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *arguments):
            return self.model(**dict(zip(names, arguments))).logits

    return Module()


def steps(case, batches):
    """What runs a batch; `batches` are arrays by the names of the inputs."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = case["threads"]
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    suffix = ".int8.onnx" if case["peer"].get("int8") else ".onnx"
    sessions = {}

    def run(number):
        name = "masked" if "attention_mask" in batches[number] else "equal"
        if name not in sessions:
            path = os.path.join(case["folder"], name + suffix)
            sessions[name] = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        return sessions[name].run(None, batches[number])[0][0].tolist()

    return run


if __name__ == "__main__":
    if sys.argv[1:2] != ["export"] or len(sys.argv) != 3:
        sys.exit(__doc__)
    export(sys.argv[2])
