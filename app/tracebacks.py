"""Shows a printed traceback with the exception first, and then the frames of the team's code.

It works on text, because the inbox and the log keep tracebacks as text: perhaps shortened, and with
the paths of another machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: The line between two exceptions, and the words for it in the summary.
LINKS = {
    "The above exception was the direct cause of the following exception:": "caused by",
    "During handling of the above exception, another exception occurred:": "while handling",
}
_LINK = re.compile(rf"\n\n({'|'.join(map(re.escape, LINKS))})\n\n")

HEADING = "Traceback (most recent call last):"
_FRAME = re.compile(r'  File "(?P<path>[^"\n]*)", line [0-9]+, in [^\n]*(?:\n    [^\n]*)*\n?')
#: Lines between frames: repetitions, and a note about frames that were left out.
_OTHER = re.compile(r" [^\n]*\n?")

#: The folders of the service. The project may lie in a folder with the name of the package.
OURS = ("app/", "devkit/")


@dataclass(frozen=True, slots=True)
class _Raised:
    """One exception of a chain: its text, all its frames, and those of the team."""

    text: str
    frames: tuple[str, ...]
    own: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Traceback:
    """A printed traceback in other forms."""

    summary: str
    """The exception, the frames of the team, and the same for each cause."""
    full: str
    """The summary and the text as Python prints it. Without frames of the team, all frames."""
    is_own: bool
    """True if it has a frame of the team."""
    left_out: int
    """The number of frames that the summary does not have."""
    kind: str
    """Tracebacks with the same frames and types of exceptions have the same ``kind``."""

    def brief(self, how: str) -> str:
        """Return the summary, the number of frames that it does not have, and the way to them."""
        if not self.left_out:
            return self.summary
        frames = "frame" if self.left_out == 1 else "frames"
        return f"{self.summary}\n{self.left_out} more {frames} ({how})"


def parse(text: str, package: str) -> Traceback:
    """Return the traceback of a ``text`` for a team whose handlers are in this ``package``.

    A text in another form, such as that of a group of exceptions, is its own summary.
    """
    text = text.rstrip()
    pieces = _LINK.split(text)
    blocks, links = pieces[::2], pieces[1::2]
    chain = [_raised(block, package) for block in blocks]
    if not all(each.text for each in chain):
        return Traceback(text, text, is_own=False, left_out=0, kind=text)
    words = ["", *(f"{LINKS[link]} " for link in reversed(links))]
    lines = list(zip(words, reversed(chain), strict=True))
    summary = "\n".join("\n".join([f"{word}{each.text}", *each.own]) for word, each in lines)
    whole = "\n".join("\n".join([f"{word}{each.text}", *each.frames]) for word, each in lines)
    left_out = sum(len(each.frames) - len(each.own) for each in chain)
    is_own = any(each.own for each in chain)
    return Traceback(
        summary,
        f"{summary}\n\n{text}" if is_own and left_out else whole,
        is_own=is_own,
        left_out=left_out,
        kind="\n".join(_kinds(blocks, chain)),
    )


def _raised(block: str, package: str) -> _Raised:
    """Return one exception. Its text is empty if the block has another form."""
    heading, _, rest = block.partition("\n")
    if heading != HEADING:
        # No frames: an exception that was made and not raised, or another form.
        return _Raised("" if block[:2] == "  " else block, (), ())
    frames: list[tuple[str, bool]] = []
    at = 0
    while found := _FRAME.match(rest, at) or _OTHER.match(rest, at):
        at = found.end()
        if path := found.groupdict().get("path"):
            frames.append((found[0].rstrip("\n"), own_file(path, package) is not None))
    own = tuple(frame for frame, is_own in frames if is_own)
    return _Raised(rest[at:], tuple(frame for frame, _ in frames), own)


def own_file(path: str, package: str) -> str | None:
    """Return the path of a file from the handler package on: ``handlers/_lib/money.py``.

    None if the file does not belong to the package, on this or on another machine.
    """
    folder = f"{package.replace('.', '/')}/"
    slashed = f"/{path}".replace("\\", "/")
    _, installed, inside = slashed.rpartition("-packages/")  # site-packages, dist-packages
    if installed:
        return inside if inside.startswith(folder) else None
    _, found, inside = slashed.rpartition(f"/{folder}")
    return f"{folder}{inside}" if found and not inside.startswith(OURS) else None


def _kinds(blocks: list[str], chain: list[_Raised]) -> Iterator[str]:
    """Yield the frames and the type of each exception, without its text, which can vary."""
    for block, each in zip(blocks, chain, strict=True):
        yield block.removesuffix(each.text)
        yield each.text.partition("\n")[0].partition(":")[0]
