# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""The command line of `lzn`. A package beside lzn_hf, as importing that takes seconds: help and completion need none of it.

What the commands do is in `lzn_hf.commands`, which each command imports when it runs.
"""
