"""`python -m pipeline` is `vae-study`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
