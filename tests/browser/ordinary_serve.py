"""``descscore`` without root's right to write everywhere: read-only files are so for root, too.

python ordinary_serve.py serve ...
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1

if __name__ == "__main__":
    # Fails for anybody but root, who has no such right to give up.
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", "descscore.cli", *sys.argv[1:]])
