"""Outputs, losses and gradients of the original implementation; README.md describes them."""
