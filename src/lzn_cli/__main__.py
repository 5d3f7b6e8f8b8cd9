# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""`python -m lzn_cli`, where the command `lzn` is not on the path."""

from .main import main


if __name__ == "__main__":
    main()
