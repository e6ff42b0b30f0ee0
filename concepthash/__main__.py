"""``python -m concepthash`` is ``chash``."""

from concepthash.cli.main import run

if __name__ == "__main__":
    run()
