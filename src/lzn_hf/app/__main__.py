# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`python -m lzn_hf.app MODEL`."""

from .command import main


if __name__ == "__main__":
    main()
