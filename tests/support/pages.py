"""Reading the documentation: its pages, their sections, and what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

#: The front page, the rules of the project, and all pages below docs/, by their path.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}

#: A fenced block of Python, and the file that the paragraph above it names last.
_FILE = re.compile(r"`([\w/]+\.py)`(?:(?!`[\w/]+\.py`|```)[\s\S])*?\n\n```python\n([\s\S]*?)```")
_FENCED = re.compile(r"^```(\w*)\n([\s\S]*?)^```$", re.MULTILINE)
_BLOCK = re.compile(r"^```(\w*)\n([\s\S]*?)^```$|^    (\S.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A command, or a fenced block with the name of its language."""

    kind: str
    text: str


def section(page: str, title: str) -> str:
    """Return a section of a page, up to the next heading of any level."""
    text = _FENCED.sub(lambda block: block[0].replace("\n#", "\n\\#"), PAGES[page])
    found = re.split(r"^#+ ", text.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)
    return found[0].replace("\n\\#", "\n#")


def blocks(page: str, title: str) -> list[Block]:
    """Return the commands and the fenced blocks of a section, in order."""
    return [
        Block("command", found[3]) if found[3] else Block(found[1], found[2])
        for found in _BLOCK.finditer(section(page, title))
    ]


def commands(page: str, title: str) -> list[str]:
    """Return the commands of a section in order: its indented lines."""
    return [block.text for block in blocks(page, title) if block.kind == "command"]


def shown(page: str, title: str) -> list[list[str]]:
    """Return the lines of each block of output that a section shows."""
    return [block.text.splitlines() for block in blocks(page, title) if block.kind == "text"]


def files(*pages: str) -> dict[str, str]:
    """Return each file that the pages show whole, by its path."""
    return {path: text for page in pages for path, text in _FILE.findall(PAGES[page])}


def table(page: str, title: str) -> list[list[str]]:
    """Return the cells of all tables of a section, without their headings."""
    lines = [line for line in section(page, title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1])] for line in lines]
    rules = [number for number, row in enumerate(cells) if set(row[0]) == {"-"}]
    headings = {*rules, *(number - 1 for number in rules)}
    return [row for number, row in enumerate(cells) if number not in headings]


def code(page: str) -> Iterator[str]:
    """Yield each code span and each indented command of a page, without comments."""
    text = _FENCED.sub("", PAGES[page])
    for found in re.finditer(r"^    (\S.*)$|`([^`\n]+)`", text, re.MULTILINE):
        yield re.sub(r" +# .*", "", found[1] or found[2])


def columns(line: str) -> list[str]:
    """Return the columns of a line of output: more than one space is between two of them."""
    return re.split(r"  +", line.strip())
