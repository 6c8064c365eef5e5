"""What a config file is made of: one ConfigDict, filled from a string of key=value pairs."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from imiad_jax import cache, plugins
from imiad_jax.errors import UserError

SMALL = "efficientnet_lite0"
"""The embedded backbone that tables of drawn data sets are made with."""


def parse(arg: str | None, **defaults: str) -> dict[str, str]:
  """Reads "key=value,key=value" over defaults; a key whose default is "" may stand alone.

  Raises:
    UserError: a key that is not among the defaults, or that lacks its value.
  """
  out = dict(defaults)
  for pair in filter(None, (arg or "").split(",")):
    key, equals, value = pair.partition("=")
    plugins.check("config argument", key, defaults)
    value = key if not equals and defaults[key] == "" else value
    if not value:
      raise UserError(f'Config argument "{pair}" needs a value: {key}=<value>.')
    out[key] = value
  return out


def part(
  method: str,
  setting: str,
  backbone: str,
  setting_kw: dict[str, Any] | None = None,
  **method_kw: Any,
) -> ml_collections.ConfigDict:
  """Returns what to run: a method in a setting.

  Args:
    method: a name in methods/.
    setting: a name in settings/.
    backbone: a backbone's name, or "paper" for the one of the method's authors. One of the small
      embedded ones (efficientnet_lite*) also brings the method's SMALL, which a CPU can pay for.
    setting_kw: parameters of the setting that differ from its own.
    **method_kw: hyperparameters that differ from those.

  Raises:
    UserError: a name that does not exist.
  """
  module = plugins.load("methods", method)
  given: dict[str, Any] = {}
  if backbone != "paper":
    plugins.backbone(backbone)
    given["backbone"] = backbone
    if backbone.startswith("efficientnet_lite"):
      given |= module.SMALL
  tasks = plugins.load("settings", setting).tasks
  out = ml_collections.ConfigDict()
  out.method = method
  out.method_kw = plugins.resolve(method, module.Model, given | method_kw)
  out.setting = setting
  out.setting_kw = plugins.resolve(setting, tasks, setting_kw or {})
  return out


def drawn(dataset: str) -> bool:
  """Returns whether a data set, or the first of several, is drawn: it needs no folder.

  Raises:
    UserError: there is no such data set.
  """
  builder = plugins.load("datasets", dataset.split("+")[0]).Builder
  return not builder.MANUAL_DOWNLOAD_INSTRUCTIONS


def make(dataset: str, *parts: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns the config of parts on a data set, or several ("a+b").

  The entries of a single part can be overridden, those of several cannot.

  Raises:
    UserError: a data set that does not exist.
  """
  for name in dataset.split("+"):
    plugins.check("dataset", name, plugins.names("datasets"))
  config = ml_collections.ConfigDict()
  config.dataset = dataset
  config.categories = ("all",)
  config.multi_class = False
  config.seeds = (0,)
  config.replicas = 1
  config.data_dir = ""
  config.prepared_dir = cache.folder("prepared")
  config.results = "results"
  config.checkpoint_minutes = 10.0
  config.gallery = 0
  config.efficiency = False
  config.tensorboard = ""
  if len(parts) == 1:
    config.update(parts[0])
  else:
    config.parts = parts
  return config


def table(
  arg: str | None,
  methods: Sequence[str],
  variants: Callable[[str, str, bool], list[ml_collections.ConfigDict]],
  quick: Sequence[str] = ("bottle", "woven"),
  dataset: str = "synthetic",
) -> ml_collections.ConfigDict:
  """Returns the config of a table of the paper for "quick,dataset=,backbone=,methods=,seeds=".

  Args:
    arg: what stands behind the config's colon; methods and seeds are joined by "+".
    methods: of the table.
    variants: (method, backbone, quick) -> what to run of a method, as `part` makes it.
    quick: categories of the drawn data set, where it is the only one, that are enough for a first
      look, with one seed; of any other all are.
    dataset: of the table where none is given.

  Raises:
    UserError: a key or a name that does not exist, or seeds that are no numbers.
  """
  given = parse(arg, quick="", dataset=dataset, backbone="", methods="", seeds="")
  backbone = given["backbone"] or (SMALL if drawn(given["dataset"]) else "paper")
  chosen = given["methods"].split("+") if given["methods"] else methods
  for method in chosen:
    plugins.check("method of this table", method, methods)
  parts = [part for method in chosen for part in variants(method, backbone, bool(given["quick"]))]
  out = make(given["dataset"], *parts)
  seeds = given["seeds"] or ("0" if given["quick"] else "0+1+2")
  if not all(seed.isdecimal() for seed in seeds.split("+")):
    raise UserError(f'The seeds "{seeds}" should be whole numbers joined by "+", such as 0+1+2.')
  out.seeds = tuple(map(int, seeds.split("+")))
  if given["quick"] and given["dataset"] == "synthetic":
    out.categories = tuple(quick)
  return out
