# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""What the command `lzn` does: one module a subcommand. Its command line is in the package `lzn_cli`."""
