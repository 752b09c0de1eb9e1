"""Replaced-token detection and masked language modelling: the objective, the step, the run."""
