"""`python -m vae_study` is `vae-study`."""

from vae_study.cli import main

if __name__ == "__main__":
    main()
