"""Write the pages that are made of code and results: ``python docs/renew.py``."""

from __future__ import annotations

from pathlib import Path

import benchmark_page
import cli_reference
import scale_page

PAGES = {
    "cli.md": cli_reference.page,
    "benchmarks.md": benchmark_page.page,
    "scale.md": scale_page.page,
}


def main() -> None:
    """Write each page that is not what it should be, and name it."""
    for name, page in PAGES.items():
        path, text = Path(__file__).parent / name, page()
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"renewed {name}")


if __name__ == "__main__":
    main()
