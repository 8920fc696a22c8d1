"""``python -m elinvar`` is the `elinvar` command."""

from __future__ import annotations

from elinvar.cli.main import main

if __name__ == "__main__":
    main()
