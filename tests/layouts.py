"""Writes tiny folders in the official layouts of the real data sets, and prepares them."""

import json
from pathlib import Path

import numpy as np
import pytest
from imiad_jax.datasets import common
from imiad_jax.datasets.mtd import split
from PIL import Image

from imiad_jax.errors import UserError

USUAL = {("train", "good"): 3, ("test", "good"): 2}
# name -> categories, images of each by (split, kind), a defective image and its mask
SETS = {
  "mvtec_ad": (
    ("bottle", "screw"),
    USUAL | {("test", "broken"): 2, ("test", "scratch"): 2},
    "bottle/test/broken/001.png",
    "bottle/ground_truth/broken/001_mask.png",
  ),
  "mpdd": (
    ("connector", "tubes"),
    USUAL | {("test", "parts_mismatch"): 2},
    "tubes/test/parts_mismatch/000.png",
    "tubes/ground_truth/parts_mismatch/000_mask.png",
  ),
  "btad": (
    ("01", "02", "03"),
    USUAL | {("test", "ko"): 2},
    "03/test/ko/001.bmp",
    "03/ground_truth/ko/001.bmp",
  ),
  "mvtec_loco": (
    ("pushpins",),
    {
      **{("train", "good"): 2, ("validation", "good"): 2, ("test", "good"): 2},
      **{("test", "logical_anomalies"): 2, ("test", "structural_anomalies"): 2},
    },
    "pushpins/test/logical_anomalies/000.png",
    "pushpins/ground_truth/logical_anomalies/000/000.png",
  ),
  "visa": (
    ("candle", "pcb1"),
    USUAL | {("test", "anomaly"): 2},
    "candle/Data/Images/Anomaly/001.JPG",
    "candle/Data/Masks/Anomaly/001.png",
  ),
  "dagm": (
    ("Class1", "Class10"),
    {("train", "good"): 3, ("test", "good"): 3, ("test", "defect"): 1},
    "Class1/Test/000.PNG",
    "Class1/Test/Label/000_label.PNG",
  ),
  "folder": (
    ("gear", "größe 2"),
    USUAL | {("test", "dent"): 2, ("test", "rost 锈"): 2},
    "gear/test/dent/000.png",
    "gear/ground_truth/dent/000.png",
  ),
}

DEFECTS = ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")


def mtd(root: Path, train: int = 4, test: int = 2) -> Path:
  """Writes official good tiles, so many of each split, and one of each defect; returns root."""
  rng = np.random.default_rng(0)
  official = split.listed()
  good = [n for n in official if n.startswith(split.GOOD)]
  names = [n for n in good if official[n] == "train"][:train]
  names += [n for n in good if official[n] == "test"][:test]
  names += [next(n for n in official if n.startswith(f"{folder}/")) for folder in DEFECTS]
  for i, name in enumerate(names):
    path = root / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    tile = rng.integers(90, 140, (30 + i, 20), dtype=np.uint8)
    mask = np.zeros_like(tile)
    if not name.startswith(split.GOOD):
      tile[5:9, 5:9], mask[5:9, 5:9] = 10, 255
    Image.fromarray(tile).save(path, quality=95)
    Image.fromarray(mask).save(path.with_suffix(".png"))
  return root


def mvtec_ad(root: Path) -> Path:
  """Writes two categories of MVTec AD, one of them grey; returns root."""
  for i, category in enumerate(("bottle", "screw")):
    _usual(root / category, ("broken", "scratch"), "{}_mask.png", grey=i == 1)
  return root


def mpdd(root: Path) -> Path:
  """Writes two categories of MPDD; returns root."""
  for category in ("connector", "tubes"):
    _usual(root / category, ("parts_mismatch",), "{}_mask.png")
  return root


def btad(root: Path) -> Path:
  """Writes BTAD, .bmp and .png as there; returns root."""
  for category, image, mask in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
    _usual(root / category, ("ko",), f"{{}}.{mask}", good="ok", image=image)
  return root


def mvtec_loco(root: Path) -> Path:
  """Writes a category of MVTec LOCO AD with overlapping channels; returns root."""
  place = root / "pushpins"
  for folder in ("train/good", "validation/good", "test/good"):
    _pictures(place / folder, 2)
  rules = []
  for i, kind in enumerate(("logical_anomalies", "structural_anomalies")):
    for path in _pictures(place / "test" / kind, 2):
      _save(place / "ground_truth" / kind / path.stem / "000.png", _region(2, 10, 100 + i))
      if path.stem == "001":
        _save(place / "ground_truth" / kind / path.stem / "001.png", _region(8, 14, 200 + i))
    rules += [
      _rule(f"relative {i}", 100 + i, 0.4, True),
      _rule(f"absolute {i}", 200 + i, 30 + 10 * i, False),
    ]
  (place / "defects_config.json").write_text(json.dumps(rules))
  return root


def visa(root: Path) -> Path:
  """Writes two categories of VisA and its split, masks with several values; returns root."""
  lines = ["object,split,label,image,mask"]
  for category in ("candle", "pcb1"):
    data = Path(category) / "Data"
    for i, path in enumerate(_pictures(root / data / "Images" / "Normal", 5, "JPG")):
      split = "train" if i < 3 else "test"
      lines.append(f"{category},{split},normal,{data.as_posix()}/Images/Normal/{path.name},")
    for path in _pictures(root / data / "Images" / "Anomaly", 2, "JPG"):
      mask = data / "Masks" / "Anomaly" / f"{path.stem}.png"
      _save(root / mask, np.maximum(_region(2, 6, 1), _region(9, 12, 3)))
      image = data / "Images" / "Anomaly" / path.name
      lines.append(f"{category},test,anomaly,{image.as_posix()},{mask.as_posix()}")
    (root / category / "image_anno.csv").write_text("image,label,mask\n")
  (root / "split_csv").mkdir()
  (root / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
  return root


def dagm(root: Path) -> Path:
  """Writes two classes of DAGM, the first image of each half defective; returns root."""
  for category in ("Class1", "Class10"):
    for half in ("Train", "Test"):
      paths = _pictures(root / category / half, 4, "PNG", grey=True)
      labels = root / category / half / "Label"
      _save(labels / f"{paths[0].stem}_label.PNG", _region(3, 9, 255))
      listed = [f"{i + 1}\t{int(i == 0)}\t{p.name}\t0\t0" for i, p in enumerate(paths)]
      listed[0] = f"1\t1\t{paths[0].name}\t0\t{paths[0].stem}_label.PNG"
      (labels / "Labels.txt").write_text("\n".join(["1", *listed]))
  return root


def folder(root: Path) -> Path:
  """Writes two categories of somebody's own; returns root."""
  for category in ("gear", "größe 2"):
    _usual(root / category, ("dent", "rost 锈"), "{}.png")
  return root


def _usual(place: Path, kinds, mask: str, good: str = "good", image: str = "png", grey=False):
  """Writes 3 images to learn, 2 good ones to test and 2 of each kind with their masks."""
  _pictures(place / "train" / good, 3, image, grey)
  _pictures(place / "test" / good, 2, image, grey)
  for kind in kinds:
    for i, path in enumerate(_pictures(place / "test" / kind, 2, image, grey)):
      _save(place / "ground_truth" / kind / mask.format(path.stem), _region(2 + i, 9, 255))


def _pictures(place: Path, count: int, suffix: str = "png", grey: bool = False) -> list[Path]:
  """Writes so many pictures that depend on their place, and returns their files."""
  paths = [place / f"{i:03d}.{suffix}" for i in range(count)]
  for path in paths:
    rng = np.random.default_rng(sum(path.relative_to(place.parents[1]).as_posix().encode()))
    _save(path, rng.integers(0, 256, (24, 32) if grey else (24, 32, 3), dtype=np.uint8))
  return paths


def _save(path: Path, pixels: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def _region(start: int, stop: int, value: int) -> np.ndarray:
  """Returns a mask [24,32] with a square region."""
  mask = np.zeros((24, 32), np.uint8)
  mask[start:stop, start:stop] = value
  return mask


def _rule(name: str, value: int, threshold: float, relative: bool) -> dict:
  return {
    "defect_name": name,
    "pixel_value": value,
    "saturation_threshold": threshold,
    "relative_saturation": relative,
  }


def write(name: str, tmp_path: Path) -> Path:
  """Writes the tiny copy of one of SETS; returns its root."""
  return globals()[name](tmp_path / "data")


def prepare(name: str, root, tmp_path: Path) -> common.Builder:
  """Returns the ready builder of a folder or an archive."""
  return common.prepare(name, root and str(root), str(tmp_path / "prepared"))


def refuse(name: str, root, tmp_path: Path) -> str:
  """Expects prepare to refuse a source and to leave nothing but locks; returns what it says."""
  with pytest.raises(UserError) as error:
    prepare(name, root, tmp_path)
  left = list((tmp_path / "prepared").glob("*"))
  assert [p for p in left if not p.name.endswith(".lock")] == []
  return str(error.value)


def error_of(name: str, root, tmp_path: Path) -> str:
  """Expects prepare to refuse a source; returns what it says."""
  with pytest.raises(UserError) as error:
    prepare(name, root, tmp_path)
  return str(error.value)
