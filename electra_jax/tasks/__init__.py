"""Tasks and their files: from what a user has to labelled examples, and what answers are worth; host only, no jax."""
