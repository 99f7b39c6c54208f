# SPDX-License-Identifier: MIT
"""python3 -m mailseal.manual FOLDER: write the manual pages and completions, for `make install`.

FOLDER gets man1, man5, man8, bash (completion for bash) and zsh.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mailseal.manual import completion, pages


def write(folder: Path) -> None:
    """All files; folders are made."""
    files = {f"man{name[-1]}/{name}": page for name, page in pages.all_pages().items()}
    files["bash/mailseal"] = completion.bash()
    files["zsh/_mailseal"] = completion.zsh()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
