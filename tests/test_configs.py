"""Every config of a table can be made, whole and quick, and says how it is run."""

import importlib
import itertools
from pathlib import Path

import pytest

from imiad_jax import config as configs
from imiad_jax import plans, plugins, training
from imiad_jax.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
TABLES = sorted({p.stem for p in CONFIGS.glob("table_*.py")} - {"table_settings_synthetic"})


def parts(config):
  return config.get("parts", (config,))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_run_as_it_says_and_quick_is_less(name):
  table = importlib.import_module(f"configs.{name}")
  assert f"python -m imiad_jax.main --config=configs/{name}.py:quick" in str(table.__doc__)
  whole, quick = table.get_config(None), table.get_config("quick")
  assert whole.seeds == (0, 1, 2) and quick.seeds == (0,)
  assert whole.categories == ("all",) and len(quick.categories) <= 3
  assert len(parts(quick)) <= len(parts(whole))
  for part in {part.method: part for part in parts(quick)}.values():
    training.check(training.build(part.method, part.method_kw.to_dict()))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_other_data_has_the_authors_hyperparameters(name):
  table = importlib.import_module(f"configs.{name}")
  for part in parts(table.get_config("dataset=mvtec_ad")):
    default = plugins.defaults(plugins.load("methods", part.method).Model)
    assert part.method_kw.backbone == default["backbone"]


def test_the_unsupervised_table_has_the_papers_methods_and_three_more():
  table = importlib.import_module("configs.table_unsupervised")
  paper = {"cfa", "csflow", "cutpaste", "draem", "fastflow", "favae"}
  paper |= {"padim", "patchcore", "rd4ad", "spade", "stpm"}
  found = [part.method for part in table.get_config(None).parts]
  assert sorted(found) == sorted(paper | {"efficientad", "simplenet", "softpatch"})


def test_the_logical_table_is_of_products_whose_parts_must_belong_together():
  table = importlib.import_module("configs.table_logical")
  assert table.get_config(None).dataset == "variants"
  assert table.get_config("quick,dataset=synthetic").categories == ("circuit", "tray")
  assert "gcad" in [part.method for part in table.get_config("quick").parts]


def test_quick_leaves_out_no_data_set():
  table = importlib.import_module("configs.table_continual")
  assert table.get_config("quick").categories == ("bottle", "capsule", "woven")
  mixed = table.get_config("quick,dataset=synthetic+mtd")
  assert mixed.categories == ("all",) and mixed.seeds == (0,)


def test_what_needs_no_folder_is_drawn_and_learnt_with_the_small_backbone():
  assert {n for n in plugins.names("datasets") if configs.drawn(n)} == {"synthetic", "variants"}
  assert configs.drawn("synthetic+mtd") and not configs.drawn("mtd+synthetic")
  with pytest.raises(UserError, match='Did you mean "variants"'):
    configs.drawn("variant")


def test_the_few_shot_table_has_each_number_of_images_alone_and_with_views():
  table = importlib.import_module("configs.table_few_shot")
  for arg, shots in ((None, {1, 2, 4, 8}), ("quick", {2, 4})):
    found = table.get_config(arg).parts
    met = {(p.method, p.setting_kw.shots, p.setting_kw.view) for p in found}
    views = ("none", "rotation")
    assert met == {(m, s, v) for m in table.METHODS for s in shots for v in views}
    assert len(found) == len(met)


def test_the_noisy_table_has_each_ratio_and_three_ways_to_re_weight():
  table = importlib.import_module("configs.table_noisy")
  for arg, ratios in ((None, {0.05, 0.1, 0.15, 0.2}), ("quick", {0.1, 0.2})):
    found = table.get_config(arg).parts
    met = {(p.method, p.method_kw.get("reweight"), p.setting_kw.ratio) for p in found}
    others = {(m, None) for m in table.METHODS if m != "patchcore"}
    kinds = others | {("patchcore", b) for b in (1, 3, 9)}
    assert met == {(*kind, r) for kind in kinds for r in ratios} and len(found) == len(met)


def test_the_re_weighting_table_has_the_papers_neighbours_at_each_ratio():
  table = importlib.import_module("configs.table_reweighting")
  met = {(p.method_kw.reweight, p.setting_kw.ratio) for p in table.get_config(None).parts}
  assert met == {(b, r) for b in (1, 2, 3, 6, 9) for r in (0.05, 0.1, 0.15, 0.2)}


def test_the_unified_table_has_every_method_in_every_setting():
  table = importlib.import_module("configs.table_unified")
  met = {(p.method, p.setting) for p in table.get_config("quick").parts}
  names = (plugins.names(kind) for kind in ("methods", "settings"))
  assert met == set(itertools.product(*names))


def test_the_quick_unified_table_learns_from_few_images_as_table_ix_does():
  few, unified = (importlib.import_module(f"configs.table_{n}") for n in ("few_shot", "unified"))
  assert unified.FEW_SHOT == few.METHODS

  def met(table, arg):
    parts = [p for p in table.get_config(arg).parts if p.setting == "few_shot"]
    return {p.to_json() for p in parts if p.method in few.METHODS}

  assert met(unified, "quick") < met(few, None)


def test_what_does_not_go_together_is_left_out_of_a_table_with_a_reason(synthetic_dir, tmp_path):
  table = importlib.import_module("configs.table_unified")
  config = table.get_config("quick,methods=devnet+padim")
  config.update(prepared_dir=synthetic_dir, results=str(tmp_path))
  plan = plans.make(config)
  met = {(job.run.method, job.run.setting) for job in plan.jobs}
  every = {("padim", setting) for setting in plugins.names("settings")}
  assert met == every | {("devnet", "fully_supervised")}
  others = set(plugins.names("settings")) - {"fully_supervised"}
  assert set(plan.refused) == {f"devnet in {setting}" for setting in others}
  assert all("told as such" in why for why in plan.refused.values())
  alone = [p for p in config.parts if (p.method, p.setting) == ("devnet", "noisy")]
  config.parts = tuple(alone)
  with pytest.raises(UserError, match="take fully_supervised"):
    plans.make(config)


def test_a_table_may_be_of_some_methods_and_seeds():
  table = importlib.import_module("configs.table_unsupervised")
  some = table.get_config("methods=padim+spade,seeds=3+4")
  assert [part.method for part in some.parts] == ["padim", "spade"] and some.seeds == (3, 4)
  with pytest.raises(UserError, match='Did you mean "padim"'):
    table.get_config("methods=padin")
  with pytest.raises(UserError, match="joined by"):
    table.get_config("seeds=0+x")
