"""Table X of the paper: training images of which some are secretly defective.

  python -m imiad_jax.main --config=configs/table_noisy.py:quick
  python -m imiad_jax.main --config=configs/table_noisy.py
  python -m imiad_jax.main --config=configs/table_noisy.py:methods=patchcore+softpatch,seeds=0
  python -m imiad_jax.main --config=configs/table_noisy.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>

PatchCore is run without re-weighting and with that of 3 and 9 neighbours. Quick is two categories
of the drawn data set, ratios of a tenth and a fifth and one seed, without it all six, four ratios
and three seeds. The drawn data set is learnt with the embedded backbone and hyperparameters that a
CPU can pay for, any other with the backbone and hyperparameters of each method's authors, for which
take an accelerator; `backbone=efficientnet_lite0` overrides that.

It costs: quick six and a half minutes on two cores, the whole of the drawn data set two to three
hours, 40 minutes each of IGD and RD4AD. Expect methods to lose at most 0.02 of image AUROC from
a ratio of 0.05 to 0.2, and PatchCore to gain nothing by re-weighting.
"""

from typing import Any

from imiad_jax import config

METHODS = (
  *("cfa", "fastflow", "igd", "inreach", "padim"),
  *("patchcore", "rd4ad", "simplenet", "softpatch"),
)


def variants(method: str, backbone: str, quick: bool):
  """Returns a method, or PatchCore with each number of neighbours, at each ratio."""
  kws: list[dict[str, Any]] = [{}]
  if method == "patchcore":
    kws = [{"reweight": b} for b in (1, 3, 9)]
  ratios = (0.1, 0.2) if quick else (0.05, 0.1, 0.15, 0.2)
  return [
    config.part(method, "noisy", backbone, {"ratio": ratio}, **kw) for kw in kws for ratio in ratios
  ]


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  return config.table(arg, METHODS, variants)
