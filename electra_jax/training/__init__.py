"""What every training run needs: updates, state, sharding, checkpoints, the loop, metrics."""
