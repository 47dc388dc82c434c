"""The training step of the MLP families written by hand: no graph, no allocation, gradients straight into one buffer.

What it computes is what autograd computes of the families, and tests hold the two together; it is there for speed.
"""

from pipeline.vae.manual.step import ManualStep, covers

__all__ = ["ManualStep", "covers"]
