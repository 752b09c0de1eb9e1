"""Pure Linen modules and functions of the networks; knows nothing of data files, optimizers or devices."""
