"""Table IX of the paper: one to eight normal images of a category, with and without turned views.

  python -m imiad_jax.main --config=configs/table_few_shot.py:quick
  python -m imiad_jax.main --config=configs/table_few_shot.py
  python -m imiad_jax.main --config=configs/table_few_shot.py:methods=patchcore+fastrecon,seeds=0
  python -m imiad_jax.main --config=configs/table_few_shot.py:dataset=mvtec_ad \\
    --config.data_dir=<folder>

Quick is two categories of the drawn data set, 2 and 4 images and one seed, without it all six,
1, 2, 4 and 8 images and three seeds. The drawn data set is learnt with the embedded backbone and
hyperparameters that a CPU can pay for, but for PatchCore's ratio, which is the authors' tenth: few
images have few patches. Any other is learnt with the backbone and hyperparameters of each method's
authors, for which take an accelerator; `backbone=efficientnet_lite0` overrides that.

It costs: quick five and a half minutes on two cores, the whole of the drawn data set about two
hours (1,152 runs, with other work beside them). Expect RegAD and PatchCore in front with eight
images, CFA, FastRecon and RegAD with one, and views to harm CFA and FastRecon: the products of the
drawn data set always lie the same way.
"""

from imiad_jax import config

METHODS = ("cfa", "fastflow", "fastrecon", "padim", "patchcore", "rd4ad", "regad", "spade")


def variants(method: str, backbone: str, quick: bool):
  """Returns a method with each number of images, alone and with views of them."""
  kw = {"ratio": 0.1} if method == "patchcore" else {}
  shots = (2, 4) if quick else (1, 2, 4, 8)
  each = [{"shots": m, "view": view} for view in ("none", "rotation") for m in shots]
  return [config.part(method, "few_shot", backbone, setting_kw, **kw) for setting_kw in each]


def get_config(arg: str | None = None):
  """Returns the config for "quick,dataset=,backbone=,methods=,seeds="."""
  return config.table(arg, METHODS, variants)
