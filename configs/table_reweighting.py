"""Table XII of the paper: PatchCore's re-weighting by neighbours where training images are noisy.

  python -m imiad_jax.main --config=configs/table_reweighting.py:quick
  python -m imiad_jax.main --config=configs/table_reweighting.py
  python -m imiad_jax.main --config=configs/table_reweighting.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>

One neighbour is no re-weighting; the paper finds that more of them help at ratios above a tenth.
Quick is two categories of the drawn data set and one seed and takes a minute on two cores, without
it all six and three seeds. The drawn data set is learnt with the embedded backbone and SMALL, any
other with the authors' backbone and hyperparameters, for which take an accelerator;
`backbone=efficientnet_lite0` overrides that.
"""

from imiad_jax import config


def variants(method: str, backbone: str, quick: bool):
  """Returns PatchCore with each number of neighbours at each ratio."""
  del quick
  ratios = (0.05, 0.1, 0.15, 0.2)
  each = [(b, ratio) for b in (1, 2, 3, 6, 9) for ratio in ratios]
  return [config.part(method, "noisy", backbone, {"ratio": r}, reweight=b) for b, r in each]


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  return config.table(arg, ("patchcore",), variants)
