"""Writes a small COCO in the form of the published files: features of 4096, captions, the json."""

import json

import numpy as np

COUNTS = {"train": 7, "val": 3, "test": 4}
WORDS = ("a", "man", "dog", "rides", "holds", "red", "bike", "on", "the", "hill", "caf\u00e9")


def sentences(rng, number):
    return [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(number)]


class CocoFolder:
    """A folder in one of the layouts; `captions` and `features` by split (train, val, test)."""

    def __init__(self, base, layout="order-embedding", counts=COUNTS, each=1, dtype=np.float32):
        rng = np.random.default_rng(0)
        self.base, self.layout, self.each = base, layout, each
        self.captions = {split: sentences(rng, 5 * number) for split, number in counts.items()}
        self.features = {
            split: np.maximum(rng.normal(size=(number, 4096)), 0).astype(dtype)
            for split, number in counts.items()
        }
        for split in counts:
            self.write_captions(split)
            self.write_features(split)

    def text(self, split):
        vse = "dev" if split == "val" else split
        return self.base / (f"coco_{vse}_caps.txt" if self.layout == "vse" else f"{split}.txt")

    def npy(self, split):
        if self.layout == "vse":
            return self.base / f"coco_{'dev' if split == 'val' else split}_ims.npy"
        return self.base / "images" / "10crop" / f"{split}.npy"

    def write_captions(self, split, content=None):
        path = self.text(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{line}\n" for line in self.captions[split])
        path.write_bytes(lines.encode() if content is None else content)
        return path

    def write_features(self, split, rows=None):
        path = self.npy(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.repeat(self.features[split], self.each, axis=0) if rows is None else rows)
        return path

    def images(self):
        """What dataset_coco.json says of them; one image of train as restval, one more sentence."""
        images = []
        for split, captions in self.captions.items():
            for i in range(len(captions) // 5):
                five = captions[5 * i : 5 * i + 5] + ["a sixth one"] * (i == 1)
                images.append(
                    {
                        "split": "restval" if (split, i) == ("train", 2) else split,
                        "cocoid": 1000 * len(split) + i,
                        "imgid": len(images),
                        "sentences": [{"tokens": line.split(), "raw": line} for line in five],
                    }
                )
        return images

    def write_json(self, images=None, content=None):
        path = self.base / "dataset_coco.json"
        body = {"images": self.images() if images is None else images, "dataset": "coco"}
        path.write_text(json.dumps(body) if content is None else content)
        return path
