"""Reads pictures and masks in any mode and writes them in the one way the package reads."""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from imiad_jax.errors import UserError

Source = Path | bytes | Callable[[], bytes]  # a file, its bytes, or what draws them when asked


def encode(
  name: str, image: Source, mask: Source | tuple[Source, ...] | None, above: int = 0
) -> tuple[bytes, bytes, bool]:
  """Returns an image as RGB, its mask as one channel of 0/255, and whether the mask has a region.

  Both as file bytes; an image without a mask gets an empty one of its size, one with several masks
  their union. Mask values higher than `above` are defect.

  Raises UserError, naming the file, when one cannot be decoded or their sizes differ.
  """
  with decoded(image, name) as (data, picture):
    rgb = data if _is_plain(data, picture) else png(to_rgb(picture))
    shape = picture.size
  if mask is None:
    return rgb, _blank(shape), False
  region = np.zeros(shape[::-1], np.uint8)
  for part in mask if isinstance(mask, tuple) else (mask,):
    with decoded(part, f"the mask of {name}") as (_, picture):
      if picture.size != shape:
        raise UserError(
          f'The mask "{where(part, name)}" is {_by(picture.size)} pixels, its '
          f'image "{name}" {_by(shape)}. Expected: one size. Repair or remove the pair.'
        )
      region |= to_mask(picture, above)
  return rgb, png(region), bool(region.any())


def to_rgb(picture: Image.Image) -> np.ndarray:
  """Returns [h,w,3] uint8 of a picture in any mode; 16 bits become 8, alpha is dropped."""
  if picture.mode.startswith("I"):
    grey = np.clip(np.asarray(picture), 0, 65535) >> 8
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
  if picture.mode == "F":
    raise ValueError("pixels are floating-point numbers; expected 8 or 16 bits")
  return np.asarray(picture.convert("RGB"))


def to_mask(picture: Image.Image, above: int = 0) -> np.ndarray:
  """Returns [h,w] uint8, 255 where any channel but alpha (or the palette's index) is > above."""
  values = np.asarray(picture)
  if values.ndim == 3:
    values = values[..., : 1 if picture.mode in ("LA", "PA") else 3].max(axis=-1)
  return np.where(values > above, 255, 0).astype(np.uint8)


def where(source: Source | None, name: str) -> str:
  """Returns what to call a source in a message: its file, or else its name."""
  return str(source) if isinstance(source, Path) else name


@contextlib.contextmanager
def decoded(source: Source, name: str) -> Iterator[tuple[bytes, Image.Image]]:
  """Yields a source's bytes and its decoded picture; any failure names the file."""
  drawn = source() if callable(source) else source  # an error of ours in there stays one
  try:
    data = drawn.read_bytes() if isinstance(drawn, Path) else drawn
    with Image.open(io.BytesIO(data)) as picture:
      picture.load()
      yield data, picture
  except UserError:
    raise
  except Exception as error:  # decoders raise anything: OSError, SyntaxError, zlib.error, ...
    raise UserError(
      f'"{where(source, name)}" is not a readable image: {error}. Copy it again or remove it.'
    ) from error


def _by(shape: tuple[int, int]) -> str:
  return f"{shape[0]} x {shape[1]}"


def _is_plain(data: bytes, picture: Image.Image) -> bool:
  """Whether every decoder reads these bytes as the same 8-bit RGB, so that they may stay."""
  if picture.mode != "RGB" or "transparency" in picture.info:
    return False
  if picture.format == "PNG":
    return data[24:26] == b"\x08\x02"  # 8 bits, RGB; Pillow silently halves 16 bits
  return picture.format == "JPEG" and picture.getexif().get(0x0112, 1) == 1  # not to be turned


def png(pixels: np.ndarray) -> bytes:
  """Returns the PNG bytes of pixels: [h,w,3] or [h,w] uint8, or [h,w] bool."""
  out = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
  return out.getvalue()


@functools.lru_cache(maxsize=16)
def _blank(shape: tuple[int, int]) -> bytes:
  """Returns the mask of a good image, all zero, of (width, height)."""
  return png(np.zeros(shape[::-1], np.uint8))
