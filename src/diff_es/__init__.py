"""Diff-ES: faster diffusion models without retraining."""
