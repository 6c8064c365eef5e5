from imiad_jax.datasets.synthetic.synthetic_dataset_builder import Builder

__all__ = ["Builder"]
