"""Image processors: two pictures through the reference library's processors (those that use Pillow), as
crates/data/tests/golden/preprocessor.json. Run with the packages of tools/parity/requirements.txt."""

import json
import pathlib

import numpy as np
import transformers
from PIL import Image

GOLDEN = pathlib.Path(__file__).parents[2] / "crates/data/tests/golden"


def picture(width, height):
    """Waves, an edge and a little noise."""
    y, x = np.mgrid[0:height, 0:width] / 10.0
    noise = np.random.default_rng(width).integers(0, 40, (height, width, 3))
    waves = np.stack([np.sin(x * 3 + y), np.cos(x - 2 * y), np.sin(x * y / 2)], -1) * 80 + 110
    waves[height // 3 : height // 2, width // 4 :] = (250, 20, 120)
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


CASES = [
    ("ViTImageProcessor", {"size": {"height": 12, "width": 12}}),
    ("ViTImageProcessor", {"size": 12, "resample": 0, "rescale_factor": 2 / 255, "image_std": [0.2, 0.3, 0.4]}),
    ("DeiTImageProcessor", {"size": 19, "crop_size": 12}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 12}, "crop_size": {"height": 12, "width": 12}}),
    ("CLIPImageProcessor", {"size": 15, "crop_size": 12, "resample": 2}),
    ("ChineseCLIPImageProcessor", {"size": {"height": 12, "width": 12}, "do_center_crop": False, "do_convert_rgb": True}),
    ("BitImageProcessor", {"size": {"shortest_edge": 16}, "crop_size": {"height": 11, "width": 11}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    ("SiglipImageProcessor", {"size": {"height": 60, "width": 60}, "do_normalize": False}),
    ("BlipImageProcessor", {"size": {"height": 12, "width": 12}, "resample": 1}),
    ("VideoMAEImageProcessor", {"size": {"shortest_edge": 16}, "crop_size": {"height": 12, "width": 12}}),
    ("VideoMAEImageProcessor", {"size": 12, "crop_size": 12, "image_mean": [0.45, 0.45, 0.45], "image_std": [0.225, 0.225, 0.225]}),
    ("BeitImageProcessor", {"size": {"height": 14, "width": 14}, "do_center_crop": True, "crop_size": {"height": 11, "width": 11}}),
]

GOLDEN.mkdir(parents=True, exist_ok=True)
pictures = {"wide.png": picture(47, 31), "tall.png": picture(30, 53)}
for name, image in pictures.items():
    image.save(GOLDEN / name, optimize=True)
cases = []
for kind, settings in CASES:
    processor = getattr(transformers, kind + "Pil")(**settings)
    pixels = {}
    for name, image in pictures.items():
        values = np.asarray(processor(image)["pixel_values"][0], dtype=np.float64)
        # A processor of videos takes a picture for one frame.
        values = values.reshape(values.shape[-3:])
        # A large result is checked at every seventh value.
        step = 7 if values.size > 2000 else 1
        pixels[name] = [list(values.shape), step, [round(float(x), 3) for x in values.flatten()[::step]]]
    cases.append({"file": {"image_processor_type": kind} | settings, "pixels": pixels})
path = GOLDEN / "preprocessor.json"
path.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
print(path.stat().st_size // 1024, "KB")
