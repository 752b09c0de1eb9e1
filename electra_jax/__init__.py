"""ELECTRA pre-training in JAX and Flax."""
