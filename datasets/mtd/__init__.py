from imiad_jax.datasets.mtd.mtd_dataset_builder import Builder

__all__ = ["Builder"]
