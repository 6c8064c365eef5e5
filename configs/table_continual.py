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
"""

from imiad_jax import config

METHODS = ("cfa", "dne", "fastflow", "padim", "rd4ad", "stpm")


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone="."""
  given = config.parse(arg, quick="", dataset="synthetic", backbone="")
  small = given["dataset"].startswith("synthetic")
  backbone = given["backbone"] or ("efficientnet_lite0" if small else "paper")

  def part(method: str, **kw):
    return config.part(method, "continual", backbone, **kw)

  rows = (250, 500, 1000) if small else (10_000, 20_000, 40_000)
  banks = [part("sharedbank", rows=n, routing=r) for n in rows for r in ("nearest", "all")]
  parts = [part(method) for method in METHODS] + [part("patchcore", append=True), *banks]
  out = config.make(given["dataset"], *parts)
  out.seeds = (0, 1, 2)
  out.efficiency = True
  if given["quick"]:
    out.update(categories=("bottle", "capsule", "woven"), seeds=(0,))
  return out
