"""Table XI of the paper: category after category, and how much is forgotten; with bytes of memory.

  python -m imiad_jax.main --config=configs/table_continual.py:quick
  python -m imiad_jax.main --config=configs/table_continual.py
  python -m imiad_jax.main --config=configs/table_continual.py:dataset=synthetic+mtd \\
    --config.data_dir=<folder that has mtd>
  python -m imiad_jax.main --config=configs/table_continual.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>

Naive fine-tuning (STPM, RD4AD, FastFlow, CFA), statistics that are replaced (PaDiM) or kept (DNE),
banks that grow (PatchCore), and one bank of fixed size for all tasks, which asks the nearest task
or all of them (sharedbank). "MB" is what scoring reads of the State. Quick is three categories and
one seed, without it all six and three seeds. The drawn data set, and it with others behind it, is
learnt with the embedded backbone and hyperparameters that a CPU can pay for, any other with those
of each method's authors, for which take an accelerator; `backbone=efficientnet_lite0` overrides
that.

It costs: quick about eight minutes on two cores, the whole of the drawn data set an hour and a
half, quick with the magnetic tiles behind it nearly two hours beside other work. Expect a bank that
grows to forget nothing, the shared one to forget 0.04 with 1,000 rows and more with fewer, and what
is trained on to keep hardly more than the last category.
"""

from typing import Any

from imiad_jax import config

METHODS = ("cfa", "dne", "fastflow", "padim", "patchcore", "rd4ad", "sharedbank", "stpm")


def variants(method: str, backbone: str, quick: bool):
  """Returns a method, or the shared bank of several sizes with either routing."""
  del quick
  if method != "sharedbank":
    kw: dict[str, Any] = {"append": True} if method == "patchcore" else {}
    return [config.part(method, "continual", backbone, **kw)]
  sizes = (250, 500, 1000) if backbone == config.SMALL else (10_000, 20_000, 40_000)
  each = [{"rows": n, "routing": routing} for n in sizes for routing in ("nearest", "all")]
  return [config.part(method, "continual", backbone, **kw) for kw in each]


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  out = config.table(arg, METHODS, variants, quick=("bottle", "capsule", "woven"))
  out.efficiency = True
  return out
