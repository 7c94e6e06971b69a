"""Makes the golden files of crates/media/tests/golden from the reference tools.

Pillow (images), torchaudio and transformers (sound), soundfile and ffmpeg (files of each format).
The inputs are synthetic and seeded. Run from anywhere: python tools/media_golden.py
"""

import io
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

# torchaudio refuses to load beside a torch built for another CUDA; only the CPU is used here.
torch.version.cuda = None
import torchaudio.compliance.kaldi as kaldi  # noqa: E402
import torchaudio.functional as audio_functional  # noqa: E402
from transformers import WhisperFeatureExtractor  # noqa: E402

GOLDEN = Path(__file__).resolve().parent.parent / "crates" / "media" / "tests" / "golden"
FORMATS = GOLDEN / "formats"
RATE = 8000


class Cases:
    """Arrays laid end to end in NAME.bin, with a list of what they are in NAME.json."""

    def __init__(self, name):
        self.name, self.cases, self.data = name, [], io.BytesIO()

    def add(self, array, **facts):
        raw = np.ascontiguousarray(array).tobytes()
        self.cases.append({**facts, "offset": self.data.tell(), "bytes": len(raw)})
        self.data.write(raw)

    def save(self):
        (GOLDEN / f"{self.name}.bin").write_bytes(self.data.getvalue())
        lines = ",\n".join(json.dumps(case) for case in self.cases)
        (GOLDEN / f"{self.name}.json").write_text(f"[\n{lines}\n]\n")


def picture(width, height, seed):
    """Smooth colours, a hard edge and a little noise."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    red = 255 * x
    green = 127 + 120 * np.sin(9 * x + 4 * y)
    blue = np.where((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1, 230, 255 * y * 0.6)
    values = np.stack([red, green, blue], -1) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8), "RGB")


def resize_cases():
    source = picture(37, 29, 1)
    cases = Cases("resize")
    cases.add(np.asarray(source), filter="source", width=37, height=29)
    filters = {
        "nearest": Image.Resampling.NEAREST,
        "box": Image.Resampling.BOX,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
    }
    for name, code in filters.items():
        for width, height in [(16, 12), (64, 48), (5, 40), (37, 10), (1, 1), (36, 30), (74, 29)]:
            resized = source.resize((width, height), code)
            cases.add(np.asarray(resized), filter=name, width=width, height=height)
    cases.save()


def color_cases():
    source = picture(25, 19, 2)
    cases = Cases("color")

    def add(image, operation, value=0.0):
        cases.add(np.asarray(image), operation=operation, value=value, width=image.width, height=image.height)

    def shifted_hue(image, shift):
        hue, saturation, value = image.convert("HSV").split()
        step = np.int32(shift * 255).astype(np.uint8)
        hue = Image.fromarray(np.asarray(hue) + step, "L")
        return Image.merge("HSV", (hue, saturation, value)).convert("RGB")

    add(source, "source")
    for factor in [0.0, 0.4, 1.3, 1.9]:
        add(ImageEnhance.Brightness(source).enhance(factor), "brightness", factor)
        add(ImageEnhance.Contrast(source).enhance(factor), "contrast", factor)
        add(ImageEnhance.Color(source).enhance(factor), "saturation", factor)
        add(ImageEnhance.Sharpness(source).enhance(factor), "sharpness", factor)
    for shift in [-0.5, -0.1, 0.07, 0.3]:
        add(shifted_hue(source, shift), "hue", shift)
    for bits in [1, 4, 7]:
        add(ImageOps.posterize(source, bits), "posterize", float(bits))
    for threshold in [0.0, 76.5, 200.0]:
        add(ImageOps.solarize(source, threshold), "solarize", threshold)
    dim = source.point(lambda value: 40 + value * 0.5)
    add(dim, "dim")
    add(ImageOps.autocontrast(dim), "auto_contrast")
    add(ImageOps.equalize(dim), "equalize")
    for degrees in [17.0, -30.0, 90.0]:
        add(source.rotate(degrees, Image.Resampling.NEAREST, fillcolor=(9, 8, 7)), "rotate", degrees)
    for operation, matrix in {
        "shear_x": lambda m: (1, m, 0, 0, 1, 0),
        "shear_y": lambda m: (1, 0, 0, m, 1, 0),
        "translate_x": lambda m: (1, 0, -m, 0, 1, 0),
    }.items():
        for amount in [0.21, -0.3] if operation != "translate_x" else [5.0, -11.0]:
            moved = source.transform(
                source.size, Image.Transform.AFFINE, matrix(amount), Image.Resampling.NEAREST, fillcolor=(9, 8, 7)
            )
            add(moved, operation, amount)
    cases.save()


def over_white(image):
    """Straight alpha over white, rounded."""
    rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
    alpha = rgba[..., 3:]
    return ((alpha * rgba[..., :3] + (255 - alpha) * 255 + 127) // 255).astype(np.uint8)


def image_formats():
    """A small file of every kind, and the pixels that it holds."""
    source = picture(24, 16, 3)
    cases = Cases("images")

    def add(name, pixels, tolerance=0):
        pixels = np.asarray(pixels)
        cases.add(pixels, file=name, width=pixels.shape[1], height=pixels.shape[0], tolerance=tolerance)

    def save(name, image, **options):
        image.save(FORMATS / name, **options)
        with Image.open(FORMATS / name) as again:
            return again.convert("RGB")

    for name in ["rgb.png", "rgb.bmp"]:
        add(name, save(name, source))
    add("rgb.webp", save("rgb.webp", source, lossless=True))
    add("rgb.tif", save("rgb.tif", source, compression="tiff_lzw"))
    grey = source.convert("L")
    add("grey.png", save("grey.png", grey))
    add("grey.jpg", save("grey.jpg", grey, quality=90))
    add("one_bit.png", save("one_bit.png", source.convert("1")))

    # Pillow decodes JPEG with libjpeg-turbo, and so do we: the same numbers.
    add("baseline.jpg", save("baseline.jpg", source, quality=95, subsampling=0))
    add("progressive.jpg", save("progressive.jpg", source, quality=95, subsampling=0, progressive=True))
    add("subsampled.jpg", save("subsampled.jpg", picture(24, 16, 3).filter(ImageFilter.GaussianBlur(2)), quality=95))
    add("lossy.webp", save("lossy.webp", source.filter(ImageFilter.GaussianBlur(2)), quality=90), 8)
    add("cmyk.jpg", save("cmyk.jpg", source.convert("CMYK"), quality=95))
    add("cmyk.tif", save("cmyk.tif", source.convert("CMYK")), 2)

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"orientation_{orientation}.jpg"
        source.save(FORMATS / name, quality=95, subsampling=0, exif=exif)
        with Image.open(FORMATS / name) as stored:
            add(name, ImageOps.exif_transpose(stored))

    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 24).astype(np.uint8), (16, 1)), "L")
    clear = source.copy()
    clear.putalpha(alpha)
    for name, options in {"alpha.png": {}, "alpha.webp": {"lossless": True, "exact": True}, "alpha.tif": {}}.items():
        clear.save(FORMATS / name, **options)
        add(name, over_white(clear))
    palette = source.quantize(16)
    palette.save(FORMATS / "palette.png", transparency=0)
    with Image.open(FORMATS / "palette.png") as stored:
        add("palette.png", over_white(stored))
    grey_alpha = Image.merge("LA", (grey, alpha))
    grey_alpha.save(FORMATS / "grey_alpha.png")
    add("grey_alpha.png", over_white(grey_alpha))

    ramp = np.linspace(0, 65535, 24 * 16).reshape(16, 24).astype(np.uint16)
    rounded = ((ramp.astype(np.int64) + 128) // 257).astype(np.uint8)
    Image.fromarray(ramp).save(FORMATS / "grey16.png")
    Image.fromarray(ramp).save(FORMATS / "grey16.tif")
    for name in ["grey16.png", "grey16.tif"]:
        add(name, np.repeat(rounded[..., None], 3, -1))

    frames = [picture(24, 16, seed).quantize(32) for seed in [3, 4, 5]]
    frames[0].save(FORMATS / "animated.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    with Image.open(FORMATS / "animated.gif") as stored:
        add("animated.gif", stored.convert("RGB"))
    frames = [picture(24, 16, seed) for seed in [3, 4, 5]]
    frames[0].save(FORMATS / "animated.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    add("animated.webp", frames[0])
    cases.save()

    (FORMATS / "drawing.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">\n'
        '  <defs><g id="tile"><rect width="4" height="4" fill="#00f"/></g></defs>\n'
        '  <use href="#tile"/><use href="#tile" x="4" y="4"/>\n'
        '  <circle cx="6" cy="2" r="1.5" fill="red" opacity="0.5"/>\n</svg>\n'
    )


def jpegs():
    """JPEGs of every way of storing colours, at sizes that no block divides, and Pillow's pixels."""
    cases = Cases("jpegs")

    def add(name, image, **options):
        image.save(FORMATS / name, quality=options.pop("quality", 75), **options)
        with Image.open(FORMATS / name) as again:
            pixels = np.asarray(again.convert("RGB"))
        cases.add(pixels, file=name, width=pixels.shape[1], height=pixels.shape[0])

    source = picture(48, 40, 7).filter(ImageFilter.GaussianBlur(1))
    for subsampling in ["4:4:4", "4:2:2", "4:2:0"]:
        for progressive in [False, True]:
            kind = subsampling.replace(":", "") + ("_progressive" if progressive else "")
            add(f"jpeg_{kind}.jpg", source.resize((33, 31)), subsampling=subsampling, progressive=progressive)
    for width, height in [(1, 1), (2, 3), (15, 17), (48, 9)]:
        add(f"jpeg_{width}x{height}.jpg", source.resize((width, height)), subsampling="4:2:0")
    add("jpeg_coarse.jpg", source, quality=10)
    add("jpeg_restarts.jpg", source, restart_marker_rows=1)
    add("jpeg_rgb.jpg", source, keep_rgb=True)
    add("jpeg_grey_progressive.jpg", source.convert("L"), progressive=True)
    add("jpeg_cmyk.jpg", source.resize((33, 31)).convert("CMYK"))
    cases.save()


def tone(rate, seconds, seed=0, noise=0.02):
    """A rising tone with a little noise, at most 0.6 loud."""
    time = np.arange(int(rate * seconds)) / rate
    rng = np.random.default_rng(seed)
    sweep = np.sin(2 * np.pi * (300 * time + 700 * time**2))
    return (0.5 * sweep + noise * rng.normal(size=time.size)).clip(-1, 1)


def ffmpeg(*arguments):
    return subprocess.run(
        ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True, stdout=subprocess.PIPE
    ).stdout


def audio_formats():
    left = tone(RATE, 0.25, 1)
    right = 0.5 * tone(RATE, 0.25, 2)
    cases = Cases("sounds")

    def add(name, samples, tolerance):
        cases.add(np.asarray(samples, np.float32), file=name, rate=RATE, tolerance=tolerance)

    for subtype, name, tolerance in [
        ("PCM_U8", "pcm8.wav", 1 / 100),
        ("PCM_16", "pcm16.wav", 1 / 30000),
        ("PCM_24", "pcm24.wav", 1e-6),
        ("PCM_32", "pcm32.wav", 1e-6),
        ("FLOAT", "float.wav", 1e-7),
    ]:
        soundfile.write(FORMATS / name, left, RATE, subtype=subtype)
        add(name, left, tolerance)
    soundfile.write(FORMATS / "sound.flac", left, RATE, subtype="PCM_16")
    add("sound.flac", left, 1 / 30000)
    soundfile.write(FORMATS / "stereo.wav", np.stack([left, right], -1), RATE, subtype="PCM_16")
    add("stereo.wav", (left + right) / 2, 1 / 15000)
    soundfile.write(FORMATS / "sound.aiff", left, RATE, subtype="PCM_16")
    add("sound.aiff", left, 1 / 30000)

    plain = FORMATS / "pcm16.wav"
    for name, options in {
        "sound.mp3": ["-c:a", "libmp3lame", "-b:a", "32k"],
        "sound.ogg": ["-c:a", "libvorbis", "-q:a", "4"],
        "sound.m4a": ["-c:a", "aac", "-b:a", "32k"],
        "sound.opus": ["-c:a", "libopus", "-b:a", "32k"],
    }.items():
        ffmpeg("-i", plain, "-fflags", "+bitexact", "-flags", "+bitexact", *options, FORMATS / name)
        raw = ffmpeg("-i", FORMATS / name, "-ac", "1", "-f", "f32le", "-c:a", "pcm_f32le", "pipe:1")
        samples = np.frombuffer(raw, np.float32)
        rate = 48000 if name.endswith("opus") else RATE
        cases.add(samples[: min(4000, rate // 4)], file=name, rate=rate, tolerance=1e-3)
    cases.save()


def video_formats():
    """25 frames in one second, frame i filled with the grey 10 i, and a tone."""
    with tempfile.TemporaryDirectory() as folder:
        for index in range(25):
            Image.new("L", (64, 48), 10 * index).save(Path(folder) / f"{index:02}.png")
        exact = ["-fflags", "+bitexact", "-flags", "+bitexact", "-map_metadata", "-1"]
        frames = ["-framerate", "25", "-i", Path(folder) / "%02d.png"]
        sound = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=1"]
        h264 = ["-c:v", "libx264", "-crf", "10", "-g", "8", "-pix_fmt", "yuv420p", "-threads", "1"]
        ffmpeg(*frames, *sound, *h264, "-c:a", "aac", "-b:a", "32k", *exact, FORMATS / "clip.mp4")
        ffmpeg(*frames, "-c:v", "libvpx-vp9", "-crf", "20", "-b:v", "0", "-g", "8", *exact, FORMATS / "silent.webm")
        # FFmpeg 6 and later take the rotation as `-display_rotation 90` before the input instead.
        rotate = ["-metadata:s:v", "rotate=90"]
        ffmpeg("-i", FORMATS / "clip.mp4", "-c", "copy", "-an", *exact, *rotate, FORMATS / "turned.mp4")


def resample_cases():
    cases = Cases("resample")
    source = tone(16000, 0.05, 4, noise=0.2)
    cases.add(source.astype(np.float32), rate=0, to=0)
    waveform = torch.tensor(source.astype(np.float32))
    for rate, to in [(44100, 16000), (16000, 44100), (48000, 16000), (8000, 16000), (22050, 16000), (7, 5), (3, 8)]:
        cases.add(audio_functional.resample(waveform, rate, to).numpy(), rate=rate, to=to)
    cases.save()


def mel_cases():
    cases = Cases("log_mel")
    source = tone(16000, 0.3, 5).astype(np.float32)
    cases.add(source, kind="source", frames=0)
    for mels in [80, 128]:
        extractor = WhisperFeatureExtractor(feature_size=mels)
        features = extractor(source, sampling_rate=16000, padding=False, return_tensors="np").input_features[0].T
        cases.add(features.astype(np.float32), kind="whisper", mels=mels, frames=features.shape[0])
        features = extractor(source, sampling_rate=16000, return_tensors="np").input_features[0].T
        assert features.shape[0] == 3000
        cases.add(features[:36].astype(np.float32), kind="whisper_padded", mels=mels, frames=3000)
    waveform = torch.tensor(source, dtype=torch.float64)[None]
    for mels, window, name, scale in [
        (80, "povey", "povey", 1.0),
        (128, "hanning", "hann", 1.0),
        (23, "hamming", "hamming", 32768.0),
    ]:
        features = kaldi.fbank(
            waveform * scale, num_mel_bins=mels, window_type=window, dither=0.0, sample_frequency=16000.0
        )
        array = features.numpy().astype(np.float32)
        cases.add(array, kind="kaldi", mels=mels, window=name, scale=scale, frames=array.shape[0])
    cases.save()


def main():
    FORMATS.mkdir(parents=True, exist_ok=True)
    resize_cases()
    color_cases()
    image_formats()
    jpegs()
    audio_formats()
    video_formats()
    resample_cases()
    mel_cases()
    total = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file())
    print(f"{total / 1024:.0f} KiB in {GOLDEN}")


if __name__ == "__main__":
    main()
