"""``python -m benchmarks.chart``: draw docs/benchmarks.svg from the tables beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[1] / "docs"
SOURCE = DOCS / "benchmarks.md"
CHART = DOCS / "benchmarks.svg"

#: All lengths are in the units of the chart, which is WIDTH wide.
WIDTH, LEFT, RIGHT, ROW = 860, 420, 110, 24

HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" \
aria-labelledby="title description">
<title id="title">Benchmarks of the service beside the snippet of Stripe's documentation</title>
<desc id="description">{description}</desc>
<style>
text {{ font: 13px system-ui, sans-serif; fill: #1a1a1a }}
.heading {{ font-weight: 600 }}
.line {{ stroke: #8a8a8a; stroke-dasharray: 3 3 }}
.low {{ fill: #2f6fb7 }}
.high {{ fill: #a8c8ea }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e8e8e8 }} }}
</style>
"""


class Bar(NamedTuple):
    """One row of the chart."""

    label: str
    low: float
    high: float


def rows(text: str, title: str) -> list[list[str]]:
    """Return the cells of the first table of the section ``title``, without its heading."""
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _bar(label: str, cells: str) -> Bar:
    """Return a bar of the two numbers in ``cells``, such as ``0.65 to 0.92``."""
    low, high = map(float, re.findall(r"[0-9]+(?:\.[0-9]+)?", cells))
    return Bar(label, low, high)


def draw(text: str) -> str:
    """Return the chart of a page's ``text`` as SVG."""
    rates = [_bar(label, rate) for label, rate, *_ in rows(text, "Throughput")]
    bursts = [
        _bar(f"{subject}, {count} deliveries, {connections} connections", f"{p50} {p99}")
        for subject, count, connections, p50, p99 in rows(text, "A burst onto slow callbacks")
    ]
    panels = [
        ("Requests/s, lowest and highest ratio to the snippet (dashed line: 1.0)", rates, 1.0, ""),
        ("A burst onto callbacks of 200 ms: median and 99th percentile", bursts, 0.0, " ms"),
    ]
    parts: list[str] = []
    words: list[str] = []
    top = 0
    for heading, bars, reference, unit in panels:
        parts += _panel(heading, bars, reference, unit, top)
        words += [f"{label}: {low:g} to {high:g}{unit}" for label, low, high in bars]
        top += ROW * (len(bars) + 2)
    description = escape("; ".join(words) + ".")
    head = HEAD.format(width=WIDTH, height=top, description=description)
    return head + "\n".join([*parts, "</svg>", ""])


def _panel(heading: str, bars: list[Bar], reference: float, unit: str, top: int) -> Iterator[str]:
    """Yield the elements of one panel. A ``reference`` of 0 draws no line."""
    scale = (WIDTH - LEFT - RIGHT) / max(reference, *[bar.high for bar in bars])
    yield f'<text class="heading" x="8" y="{top + ROW - 7}">{escape(heading)}</text>'
    for number, (label, low, high) in enumerate(bars, start=1):
        y = top + number * ROW
        yield f'<text x="8" y="{y + 16}">{escape(label)}</text>'
        for name, value in (("high", high), ("low", low)):
            width = f"{value * scale:.1f}"
            yield f'<rect class="{name}" x="{LEFT}" y="{y + 4}" width="{width}" height="16"/>'
        values = f"{low:g} to {high:g}{unit}"
        yield f'<text x="{LEFT + high * scale + 6:.1f}" y="{y + 16}">{values}</text>'
    if reference:
        x, end = f"{LEFT + reference * scale:.1f}", top + ROW * (len(bars) + 1)
        yield f'<line class="line" x1="{x}" x2="{x}" y1="{top + ROW}" y2="{end}"/>'


if __name__ == "__main__":
    CHART.write_text(draw(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
