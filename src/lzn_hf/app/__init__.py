# Copyright 2026 The lzn_hf authors. Apache-2.0.
"""A page to play with a model: `build_app` of `page.py` makes it, `main` of `command.py` serves it. Needs the extra `app`."""
