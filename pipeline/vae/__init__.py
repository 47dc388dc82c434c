"""Train and measure variational autoencoders, several at once as one tensor program; knows nothing of the other rooms.

Shape suffixes: K members of a pack, N rows, B rows of a batch, D features, Z latent dimensions (of the largest member),
I and O inputs and outputs of a layer, P parameters of one member, S steps, T steps of a whole budget.
"""
