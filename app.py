"""The page to try texts, for a hosted Space: ``python app.py`` listens where the host says."""

from __future__ import annotations

import os

from descscore.page.cli import ServeOptions, run


def main() -> None:
    """Serve the shipped model, or the one that ``DESCSCORE_MODEL`` names.

    A Space tells its own host names in ``SPACE_HOST``.
    """
    run(
        ServeOptions(
            host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
            port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
            model=os.environ.get("DESCSCORE_MODEL", "default"),
            names=tuple(filter(None, os.environ.get("SPACE_HOST", "").split(","))),
            framed=True,  # a Space shows its app in a frame
        )
    )


if __name__ == "__main__":
    main()
