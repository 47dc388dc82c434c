"""Distributed hyperparameter studies of variational autoencoders. The functions of `pipeline.api` are the way in."""
