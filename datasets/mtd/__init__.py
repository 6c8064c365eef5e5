from imiad_jax.datasets.mtd.mtd_dataset_builder import Builder  # pyright: ignore[reportMissingImports]

__all__ = ["Builder"]
