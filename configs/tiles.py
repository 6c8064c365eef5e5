"""The magnetic tiles (MTD) at what two CPU cores can pay for, one seed.

  python -m imiad_jax.main --config=configs/tiles.py --config.data_dir=<folder>
  python -m imiad_jax.main --config=configs/tiles.py:method=stpm --config.data_dir=<folder>
  python -m imiad_jax.main --config=configs/tiles.py:setting=noisy --config.data_dir=<folder>
  python -m imiad_jax.main --config=configs/tiles.py:setting=fully_supervised \\
    --config.data_dir=<folder>

Every unsupervised method, and DNE, GCAD and UniAD as such; a few with a tenth as many defective
tiles hidden among those that are learnt, and a few with ten defective ones told. The embedded
backbone and each method's SMALL, which are for categories of 60 images; here there are 762, so that
methods that train pass over them less often, as EPOCHS says, and SemiREST keeps about as many
normal features.
"""

from typing import Any

from imiad_jax import config
from imiad_jax.plugins import check

EPOCHS = {
  **{"bgad": 3, "cfa": 1, "csflow": 6, "cutpaste": 4, "dne": 1, "dra": 10, "draem": 16},
  **{"efficientad": 5, "fastflow": 6, "favae": 8, "gcad": 10, "igd": 4, "prn": 3, "rd4ad": 4},
  **{"semirest": 8, "simplenet": 8, "stpm": 2, "uniad": 3},
}
RATIO = {"semirest": 0.004}
METHODS = {
  "unsupervised": (
    *("cfa", "csflow", "cutpaste", "dne", "draem", "efficientad", "fastflow", "favae", "gcad"),
    *("rd4ad", "simplenet", "stpm", "uniad", "padim", "patchcore", "softpatch", "spade"),
  ),
  "noisy": ("cfa", "igd", "inreach", "padim", "patchcore", "softpatch", "spade"),
  "fully_supervised": ("bgad", "devnet", "dra", "padim", "patchcore", "prn", "semirest"),
}


def get_config(arg: str | None = None):
  """Returns the config for "method=,setting=", of all methods without the first."""
  given = config.parse(arg, method="", setting="unsupervised")
  check("setting of the tiles", given["setting"], METHODS)
  methods = METHODS[given["setting"]]
  if given["method"]:
    check("method of the tiles", given["method"], methods)

  def part(method: str):
    changed = {"epochs": EPOCHS, "ratio": RATIO}
    kw: dict[str, Any] = {k: v[method] for k, v in changed.items() if method in v}
    return config.part(method, given["setting"], config.SMALL, **kw)

  return config.make("mtd", *map(part, (given["method"],) if given["method"] else methods))
