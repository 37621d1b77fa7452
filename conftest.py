"""Makes Triton interpret its kernels, so that tests need no GPU. Knows nothing of any test.

It stands in the root because Triton reads the variable once, at its import, and pytest loads this
file before any conftest.py under tests/.
"""

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
