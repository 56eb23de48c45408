"""``descscore`` whose pages do nothing but open as long as a file is there: a server that is busy.

python held_serve.py FILE serve ...
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from descscore.cli import main
from descscore.page import study_page, try_page

HOLD = Path(sys.argv.pop(1))


def held(act: Any) -> Any:
    def waiting(page: Any, action: str, *more: Any) -> Any:
        while HOLD.exists() and action != "open":
            time.sleep(0.02)
        return act(page, action, *more)

    return waiting


study_page.StudyPage.act = held(study_page.StudyPage.act)  # type: ignore[method-assign]
try_page.TryPage.act = held(try_page.TryPage.act)  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
