"""The magnetic tile defects of Huang, Qiu, Guo, Wang and Yuan (2018), read from their folders."""

import logging
from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import Example  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.mtd import split  # pyright: ignore[reportMissingImports]

_LOG = logging.getLogger(__name__)

FOLDERS = {
  "MT_Blowhole": "blowhole",
  "MT_Break": "break",
  "MT_Crack": "crack",
  "MT_Fray": "fray",
  "MT_Free": "good",
  "MT_Uneven": "uneven",
}


class Builder(common.Builder):
  """952 good and 392 defective grey pictures of magnetic tiles, one category."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release, with our split of the good images."}
  CATEGORIES = ("mtd",)
  COUNTS = {
    "mtd": {
      **{"train/good": 762, "test/good": 190, "test/blowhole": 115, "test/break": 85},
      **{"test/crack": 57, "test/fray": 32, "test/uneven": 103},
    }
  }
  MASK_ABOVE = 127  # the masks' edges fade out
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Expected: MT_Blowhole/Imgs, MT_Break/Imgs, MT_Crack/Imgs, MT_Fray/Imgs, MT_Free/Imgs and "
    "MT_Uneven/Imgs, each with NAME.jpg and its mask NAME.png (MT_Free needs no masks). Get them "
    "from https://github.com/abin24/Magnetic-tile-defect-datasets. and give the folder that holds "
    "the MT_ folders."
  )

  @classmethod
  def fits(cls, folder: Path) -> bool:
    """Whether one of the MT_ folders is there."""
    return any((folder / f / "Imgs").is_dir() for f in FOLDERS)

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the tiles below `root`; warns when they are not exactly the official ones."""
    assert root is not None, "MANUAL_DOWNLOAD_INSTRUCTIONS makes the caller ask for a folder"
    official, found = split.listed(), []
    for folder, kind in FOLDERS.items():
      masks = {p.stem: p for p in common.images(root / folder / "Imgs", (".png",))}
      for path in common.images(root / folder / "Imgs", (".jpg", ".jpeg")):
        name = common.name_of(path, root)
        train = kind == "good" and official.get(_stem(name), "train") == "train"
        mask = None if kind == "good" else masks.get(path.stem)
        found.append(Example(name, "mtd", "train" if train else "test", kind, path, mask))
    _compare({_stem(e.name) for e in found}, set(official))
    return found


def _stem(name: str) -> str:
  return name.rpartition(".")[0]


def _compare(found: set[str], official: set[str]) -> None:
  """Warns of images that are missing or unknown: results would not compare with others'."""
  for what, names in (("missing", official - found), ("unknown", found - official)):
    if names:
      shown = sorted(names)[:20]
      _LOG.warning(
        "mtd: %d %s: %s%s", len(names), what, " ".join(shown), " ..." * (len(names) > 20)
      )
