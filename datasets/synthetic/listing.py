"""Which pictures there are of each object, and the drawing of one."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

from imiad_jax.datasets.common import Example, counts  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.common.pictures import png  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic import defects  # pyright: ignore[reportMissingImports]
from imiad_jax.datasets.synthetic.categories import Category  # pyright: ignore[reportMissingImports]

Objects = Mapping[str, Category]


class Amounts(NamedTuple):
  """How many pictures there are of an object."""

  train: int  # good ones to learn
  test: int  # good ones to test
  damage: int  # of each kind that any object may have
  mistake: int  # of each kind of the object's own


def examples(objects: Objects, amounts: Amounts) -> list[Example]:
  """Lists the pictures, each with what draws it."""
  return [
    _example(kit, (category, split, kind, number))
    for category, kit in sorted(objects.items())
    for split, kind, count in _parts(kit, amounts)
    for number in range(count)
  ]


def numbers(objects: Objects, amounts: Amounts) -> counts.Counts:
  """Returns how many images each category has: see counts."""
  bad = {name: sum(n for _, _, n in _parts(kit, amounts)[2:]) for name, kit in objects.items()}
  return {name: counts.usual(amounts.train, amounts.test, bad[name]) for name in objects}


def _parts(kit: Category, amounts: Amounts) -> list[tuple[str, str, int]]:
  """Returns (split, kind, how many), the good ones first."""
  own = dict(kit.mistakes)
  return [
    *(("train", "good", amounts.train), ("test", "good", amounts.test)),
    *(
      ("test", kind, amounts.mistake if kind in own else amounts.damage)
      for kind in defects.kinds(kit)
    ),
  ]


def _example(kit: Category, at: tuple[str, str, str, int]) -> Example:
  """Returns one example, not yet drawn."""
  category, split, kind, number = at
  mask = None if kind == "good" else functools.partial(_mask, kit, *at)
  name = f"{category}/{split}/{kind}/{number:03d}.png"
  return Example(name, category, split, kind, functools.partial(_image, kit, *at), mask)


def _image(*at) -> bytes:
  return png(defects.picture(*at)[0])


def _mask(*at) -> bytes:
  return png(defects.picture(*at)[1])
