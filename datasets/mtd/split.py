"""Which good magnetic tiles are tested: there is no official split, so ours is a committed list.

`split.txt` holds the 1344 official images, "train" or "test" before each. It was made by
`lines(names)` of all names, and is the same for everyone.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SEED = 0
TESTED = 0.2  # of the good images
GOOD = "MT_Free/"


def lines(names: Iterable[str]) -> list[str]:
  """Returns the list for these names: defects are tested, and so is a fifth of the good ones.

  The fifth whose seeded hash is smallest: no random generator, hence the same everywhere.
  """
  names = sorted(names)
  good = [n for n in names if n.startswith(GOOD)]
  good.sort(key=lambda n: hashlib.sha256(f"{SEED} {n}".encode()).digest())
  train = set(good[int(TESTED * len(good)) :])
  return [f"{'train' if n in train else 'test'} {n}" for n in names]


def listed() -> dict[str, str]:
  """Returns the committed list: name without suffix -> "train" or "test"."""
  text = Path(__file__).with_name("split.txt").read_text("utf-8")
  return {name: split for split, name in (line.split(" ") for line in text.splitlines())}
