"""Reads what most data sets are: <category>/{train,validation,test,ground_truth}/<kind>/*.png.

Names of folders that have a meaning, and extensions, count in any case; `ok` means `good`. Only the
files directly in a kind's folder are read, so that no link can lead in a circle.
"""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from imiad_jax.datasets.common.examples import (  # pyright: ignore[reportMissingImports]
  SPLITS,
  SUFFIXES,
  Example,
  images,
  name_of,
)
from imiad_jax.datasets.common.pictures import Source  # pyright: ignore[reportMissingImports]

from imiad_jax.errors import UserError

_LOG = logging.getLogger("imiad_jax.datasets.common")

Masks = dict[Path, Source | tuple[Source, ...]]  # of images


def folders(folder: Path | None) -> list[Path]:
  """Lists the folders directly in a folder, sorted, but those of the system; [] for None."""
  if folder is None or not folder.is_dir():
    return []
  found = (p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))
  return sorted(p for p in found if p.is_dir())


def child(folder: Path | None, name: str) -> Path | None:
  """Returns the folder of this name in a folder, else one of this name in another case."""
  return _named(folders(folder), name)


def categories(root: Path | None, names: Sequence[str]) -> dict[str, Path]:
  """Returns the folders in `root` of those categories that are there."""
  there = folders(root)
  places = {name: _named(there, name) for name in names}
  return {name: place for name, place in places.items() if place}


def pair(paths: list[Path], masks: list[Path]) -> Masks:
  """Returns the masks of images: a mask has the stem of its image, with or without `_mask`.

  Images that share a stem need masks of their full names. Raises UserError where it is not certain
  which mask belongs to which image.
  """
  by_stem, pairs = defaultdict(list), {}
  for mask in masks:
    by_stem[_stem(mask)].append(mask)
  times = Counter(_stem(p) for p in paths)
  for path in paths:
    stem = _stem(path)
    fits = by_stem[stem] + by_stem[f"{stem}_mask"]
    if times[stem] > 1 and fits:
      fits = [mask for mask in fits if mask.name == path.name] or [*fits, *fits]
    if len(fits) > 1:
      names = ", ".join(sorted({f'"{m}"' for m in fits}))
      raise UserError(
        f'It is not certain which mask "{path}" has; there are {times[stem]} images of that stem '
        f"and {names}. Expected: one image and one mask of a stem. Rename or remove one."
      )
    if fits:
      pairs[path] = fits[0]
  unused = sorted(set(masks) - set(pairs.values()))
  if unused:
    _LOG.warning("%d masks have no image and are ignored, such as %s", len(unused), unused[0])
  return pairs


def category(
  name: str,
  folder: Path,
  root: Path,
  masks_of: Callable[[list[Path], list[Path], Path | None], Masks] = lambda ps, ms, _: pair(ps, ms),
  suffixes: Sequence[str] = SUFFIXES,
) -> list[Example]:
  """Lists the images of one category.

  Args:
    name: of the category.
    folder: where its train, test and other folders are.
    root: what the images' names are relative to.
    masks_of: (a kind's images, the files of its folder in ground_truth, that folder or None) ->
      the images' masks.
    suffixes: of the files that are images.

  Raises:
    UserError: something to be learnt that is not good, or masks that do not fit.
  """
  found: list[Example] = []
  truth = child(folder, "ground_truth")
  for split in SPLITS:
    top = child(folder, split)
    if loose := images(top, suffixes):
      _LOG.warning("%s: %d images in no kind's folder are ignored", top, len(loose))
    for place in folders(top):
      kind = kind_of(place)
      if split != "test" and kind != "good":
        raise UserError(
          f'"{place}" is to be learnt but is not named "good". Expected: {split}/good alone. '
          f"Move its images to test/{place.name} or remove them."
        )
      paths, masks = images(place, suffixes), {}
      if kind != "good":
        there = child(truth, place.name)
        masks = masks_of(paths, images(there, suffixes), there)
      found += [Example(name_of(p, root), name, split, kind, p, masks.get(p)) for p in paths]
  return found


def kind_of(place: Path) -> str:
  """Returns the kind that a folder's images are of: "good", also for `ok`, or its name."""
  name = unicodedata.normalize("NFC", place.name)
  return "good" if name.casefold() in ("good", "ok") else name


def _named(places: list[Path], name: str) -> Path | None:
  alike = [p for p in places if p.name.casefold() == name.casefold()]
  return next((p for p in alike if p.name == name), alike[0] if alike else None)


def _stem(path: Path) -> str:
  return unicodedata.normalize("NFC", path.stem)
