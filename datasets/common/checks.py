"""What has to be true of a listing before anything is built from it."""

from collections import Counter
from pathlib import Path

from imiad_jax.datasets.common import counts, layout  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.builder import Builder  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.examples import (  # pyright: ignore[reportMissingImports]
  SPLITS,
  Example,
  size,
)
from imiad_jax.datasets.common.pictures import where  # pyright: ignore[reportMissingImports]

from imiad_jax.errors import UserError


def checked(
  builder: type[Builder], examples: list[Example], root: Path | None = None
) -> list[Example]:
  """Returns the examples in stored order: train, validation, then test, each by name.

  Raises UserError for an unreadable or empty file, a name met twice or in no encoding, a category
  without good training images, and, where the builder is strict, a missing mask or no test images.
  """
  for e in examples:
    _check_sources(e)
    if builder.STRICT and e.label and e.mask is None:
      raise UserError(
        f'"{where(e.image, e.name)}" shows a defect ("{e.kind}") but has no mask. Expected: '
        "one mask per defective image. Add the mask or remove the image."
      )
  name, times = next(iter(Counter(e.name for e in examples).most_common(1)), ("", 0))
  if times > 1:
    raise UserError(f'Two images are named "{name}". Expected: unique names. Rename one of them.')
  learnt = {e.category for e in examples if e.split == "train" and not e.label}
  present = {e.category for e in examples} | set(layout.categories(root, builder.CATEGORIES))
  for category in sorted(present) or builder.CATEGORIES:
    if category not in learnt:
      raise UserError(
        f'Category "{category}" of data set "{builder.name}" has no good training images. '
        f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS or ''}".rstrip()
      )
  if builder.STRICT and all(e.split != "test" for e in examples):
    raise UserError(f'Data set "{builder.name}" has no test images: nothing could be measured.')
  return sorted(examples, key=lambda e: (SPLITS.index(e.split), e.name))


def report(builder: type[Builder], rows: list[counts.Row]) -> None:
  """Warns, in full, where the images found are not as many as the official ones."""
  text = counts.described(builder.COUNTS, rows)
  if text:
    counts.LOG.warning(
      "%s: not the official images, so results do not compare with others':\n%s",
      *(builder.name, text),
    )


def _check_sources(e: Example) -> None:
  for source in e.sources:
    try:
      empty = size(source) == 0
      e.name.encode()
    except (OSError, UnicodeError) as error:
      raise UserError(f"{e.name!a} cannot be read: {error}. Repair or remove it.") from error
    if empty:
      raise UserError(f'"{where(source, e.name)}" is an empty file. Copy it again or remove it.')
