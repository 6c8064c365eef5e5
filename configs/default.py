"""One method on one data set in one setting.

  python -m imiad_jax.main --config=configs/default.py:method=padim,dataset=synthetic
  python -m imiad_jax.main --config=configs/default.py:method=patchcore,dataset=mtd \\
    --config.data_dir=<folder> --config.method_kw.ratio=0.1

With the embedded backbone, as by default, hyperparameters are those that a CPU can pay for;
`backbone=paper` takes the backbone and hyperparameters of the method's authors.
"""

from imiad_jax import config


def get_config(arg: str | None = None):
  """Returns the config for "method=,dataset=,setting=,backbone="."""
  given = config.parse(
    arg,
    method="patchcore",
    dataset="synthetic",
    setting="unsupervised",
    backbone="efficientnet_lite0",
  )
  part = config.part(given["method"], given["setting"], given["backbone"])
  return config.make(given["dataset"], part)
