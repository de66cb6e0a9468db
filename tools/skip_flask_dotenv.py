"""Keep `flask` from reading `.env` itself, in this Python environment.

It would use the nearest `.env` of all parent folders, replace `${NAME}` in it, and end with a
traceback if it is not UTF-8. Only a `.pth` file is read before `flask` starts.
"""

import sys
import sysconfig
from pathlib import Path

START = 'import os; os.environ.setdefault("FLASK_SKIP_DOTENV", "1")\n'


def main(folder: Path) -> None:
    """Write the `.pth` file into the `folder`, which is one of site packages."""
    (folder / "skip_flask_dotenv.pth").write_text(START, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else sysconfig.get_path("purelib")))
