"""The kinds of autoencoder."""
