"""What each command takes and prints; `electra_jax.cli` dispatches."""
