"""`python -m dp_diffusion` is `python -m dp_diffusion.main`."""

from __future__ import annotations

import sys

from dp_diffusion import main as main_lib

if __name__ == '__main__':
  sys.exit(main_lib.main())
