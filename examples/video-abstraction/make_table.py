"""Frames of short clips with captions, and whether each stays in the summary.

    python make_table.py ASSETS NAMES.json OUT

ASSETS: the folder of animated emoji (npm package @lobehub/fluent-emoji-anim-1, drawings by Microsoft, MIT), one clip
per file; NAMES.json: data-by-emoji.json (npm package unicode-emoji-json, MIT), with the name and group of each. Writes
OUT/frames.csv and the pictures beside it.

Four frames at even distances of each moving clip, the one of each still. The caption is the clip's name; every third
clip, chosen by a hash of its name, has none, as shots without a title have none. The rule of the label: this is a
summary for a viewer who asks for nature, so a frame is `keep` if its clip is of the Unicode group "Animals & Nature",
else `leave`. Flags are left out, and of people who come in five colours of skin, the yellow one is taken.
"""

import csv
import hashlib
import json
import os
import sys

from PIL import Image

FRAMES = 4
SIDE = 128
KEPT = "Animals & Nature"
SKIN = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


def code(emoji):
    return "-".join(f"{ord(c):04x}" for c in emoji if ord(c) != 0xFE0F)


def picture(clip, at):
    """A frame on white, as small as the model needs it."""
    clip.seek(at)
    frame = clip.convert("RGBA")
    white = Image.new("RGBA", frame.size, "white")
    return Image.alpha_composite(white, frame).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def main():
    assets, names, out = sys.argv[1:]
    with open(names, encoding="utf-8") as file:
        known = {code(emoji): about for emoji, about in json.load(file).items()}
    os.makedirs(os.path.join(out, "frames"), exist_ok=True)
    rows = []
    for file in sorted(os.listdir(assets)):
        parts = [p for p in file.removesuffix(".webp").split("-") if p != "fe0f"]
        about = known.get("-".join(parts))
        if about is None or about["group"] == "Flags" or SKIN & set(parts):
            continue
        name = about["name"]
        untitled = hashlib.sha256(name.encode()).digest()[0] % 3 == 0
        with Image.open(os.path.join(assets, file)) as clip:
            count = min(FRAMES, clip.n_frames)
            for n in range(count):
                path = f"frames/{'-'.join(parts)}-{n}.png"
                picture(clip, n * clip.n_frames // count).save(os.path.join(out, path))
                rows.append([path, "" if untitled else name, name, "keep" if about["group"] == KEPT else "leave"])
    with open(os.path.join(out, "frames.csv"), "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["frame", "caption", "clip", "label"])
        table.writerows(rows)
    kept = [r for r in rows if r[3] == "keep"]
    print(f"{len(rows)} frames of {len({r[2] for r in rows})} clips; keep: {len(kept)} of {len({r[2] for r in kept})}; "
          f"without a caption: {sum(not r[1] for r in rows)}")  # fmt: skip


if __name__ == "__main__":
    main()
