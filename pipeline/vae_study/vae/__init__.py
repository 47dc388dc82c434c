"""Train and measure variational autoencoders, several at once as one tensor program; no Ray, Optuna or MLflow.

Shape suffixes: K models of a batch, G of them that are computed together, N rows, B rows of a minibatch, D features,
Z latent dimensions (of the largest model), R parts of the rate, E decoder outputs, C classes, I and O inputs and
outputs of a layer, P parameters of one model, S steps, T steps of a whole budget.
"""
