"""The magnetic tiles (MTD) with every unsupervised method, at what two CPU cores can pay for.

  python -m imiad_jax.main --config=configs/tiles.py --config.data_dir=<folder>
  python -m imiad_jax.main --config=configs/tiles.py:method=stpm --config.data_dir=<folder>

The embedded backbone and each method's SMALL, which are for categories of 60 images; here there are
762, so that methods that train pass over them less often, as EPOCHS says. One seed.
"""

from typing import Any

from imiad_jax import config
from imiad_jax.plugins import check

EPOCHS = {
  **{"cfa": 1, "csflow": 6, "cutpaste": 4, "draem": 4, "efficientad": 5, "fastflow": 6},
  **{"favae": 8, "rd4ad": 4, "simplenet": 8, "stpm": 5},
}
METHODS = (*EPOCHS, "padim", "patchcore", "softpatch", "spade")


def get_config(arg: str | None = None):
  """Returns the config for "method=", of all methods without it."""
  given = config.parse(arg, method="")
  if given["method"]:
    check("method of the tiles", given["method"], METHODS)
  chosen = (given["method"],) if given["method"] else METHODS

  def part(method: str):
    kw: dict[str, Any] = {"epochs": EPOCHS[method]} if method in EPOCHS else {}
    return config.part(method, "unsupervised", "efficientnet_lite0", **kw)

  return config.make("mtd", *map(part, chosen))
