"""A user's own images in folders as MVTec AD has them: one category or many, masks or none."""

import logging
import unicodedata
from pathlib import Path

import tensorflow_datasets as tfds
from imiad_jax.datasets import common  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common import Example, layout  # pyright: ignore[reportMissingImports]
from PIL import Image

from imiad_jax.errors import UserError

_LOG = logging.getLogger("imiad_jax.datasets.folder")

_PARTS = ("train", "validation", "test", "ground_truth")


class Builder(common.Builder):
  """Reads <category>/{train/good,test/KIND,ground_truth/KIND}; only train/good has to be there."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  STRICT = False
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Expected: train/good with good images and, where there are any, test/good, test/KIND for each "
    "kind of defect, and masks ground_truth/KIND/NAME.png or NAME_mask.png; or several folders, "
    "one a category, with those in them."
  )

  @classmethod
  def fits(cls, folder: Path) -> bool:
    """Whether the folder is one category or holds some."""
    return bool(_categories(folder))

  @classmethod
  def examples(cls, root: Path | None) -> list[Example]:
    """Lists the images of every category; raises UserError for what would be lost unnoticed."""
    assert root is not None, "MANUAL_DOWNLOAD_INSTRUCTIONS makes the caller ask for a folder"
    suffixes = tuple(s for s, form in Image.registered_extensions().items() if form in Image.OPEN)
    found: list[Example] = []
    places = _categories(root)
    others = [p.name for p in layout.folders(root.absolute()) if p not in places.values()]
    if others and root.absolute() not in places.values():
      _LOG.warning("%s: folders without images to learn are ignored: %s", root, ", ".join(others))
    for name, place in places.items():
      _check_nested(place)
      listed = layout.category(name, place, place.parent, suffixes=suffixes)
      _check_masks(name, listed)
      if not any(e.split == "train" for e in listed):
        raise UserError(
          f'Category "{place}" has no good images. {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}'
        )
      found += listed
    return found


def _categories(root: Path) -> dict[str, Path]:
  """Returns the folders of the categories by name; a root with a train folder is the only one."""
  root = root.absolute()
  inside = [p for p in layout.folders(root) if any(layout.child(p, part) for part in _PARTS)]
  places = [root] if layout.child(root, "train") else inside
  return {unicodedata.normalize("NFC", p.name): p for p in places}


def _check_nested(place: Path) -> None:
  """Raises UserError for folders within the folders of kinds: their images would be missed."""
  for part in _PARTS:
    for kind in layout.folders(layout.child(place, part)):
      if inner := layout.folders(kind):
        raise UserError(
          f'"{kind}" holds the folder "{inner[0].name}". Expected: images directly in the folder '
          "of their kind. Move the images up, or the folder away."
        )


def _check_masks(category: str, examples: list[Example]) -> None:
  """Raises UserError when only some defects have masks: the others would count as good pixels."""
  defects = [e for e in examples if e.label]
  bare = [e for e in defects if e.mask is None]
  if bare and len(bare) < len(defects):
    raise UserError(
      f'{len(bare)} of {len(defects)} defective images of category "{category}" have no mask, such '
      f'as "{bare[0].image}". Expected: a mask for each or for none. Add the missing masks, or '
      "take ground_truth away to do without pixel metrics."
    )
