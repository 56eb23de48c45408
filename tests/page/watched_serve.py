"""``descscore`` that writes down all it opens, connects to or starts: a line of JSON each.

python watched_serve.py LOG serve ...
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

LOG = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
KINDS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "shutil.copyfile"}
KINDS |= {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"}
KINDS |= {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "sqlite3.connect"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def write_down(event: str, arguments: tuple[Any, ...]) -> None:
    if event in KINDS:
        writes = event == "open" and bool((arguments[2] or 0) & WRITES)
        line = {"event": event, "about": [str(one) for one in arguments], "writes": writes}
        os.write(LOG, (json.dumps(line) + "\n").encode())


if __name__ == "__main__":
    sys.addaudithook(write_down)
    from descscore.cli import main

    main()
