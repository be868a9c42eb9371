"""Bar charts as SVG, which have their own background and so are readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 760, 210, 110, 52, 30
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'
_STYLE = """\
    .paper { fill: #ffffff; stroke: #d0d7de; }
    text { fill: #1f2328; }
    .title { font-weight: 600; }
    .small { font-size: 11px; fill: #57606a; }
    .target { fill: #0969da; }
    .ceiling { fill: #afb8c1; }
    .range { stroke: #1f2328; stroke-width: 1.5; }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #161b22; stroke: #30363d; }
      text { fill: #e6edf3; }
      .small { fill: #9198a1; }
      .target { fill: #4493f8; }
      .ceiling { fill: #565f6a; }
      .range { stroke: #e6edf3; }
    }
"""


@dataclass(frozen=True)
class Bar:
    """The median of whom, its least and greatest round, and whether it is a ceiling rather than a server."""

    name: str
    value: float
    low: float
    high: float
    ceiling: bool = False


def svg(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """Return a chart with one bar for each, in their order; a line shows from the least to the greatest round."""
    most = max((bar.high for bar in bars), default=0.0) or 1.0
    width = _WIDTH - _LEFT - _RIGHT
    height = _TOP + _ROW * len(bars) + 14
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" {_FONT}>',
        f"  <title>{escape(title)}</title>",
        f"  <style>\n{_STYLE}  </style>",
        f'  <rect class="paper" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'  <text class="title" x="16" y="24">{escape(title)}</text>',
        f'  <text class="small" x="16" y="41">{escape(unit)}</text>',
    ]
    for number, bar in enumerate(bars):
        top, kind = _TOP + _ROW * number, "ceiling" if bar.ceiling else "target"
        low, value, high = (_LEFT + width * max(0.0, figure) / most for figure in (bar.low, bar.value, bar.high))
        lines += [
            f'  <text x="{_LEFT - 10}" y="{top + 16}" text-anchor="end">{escape(bar.name)}</text>',
            f'  <rect class="{kind}" x="{_LEFT}" y="{top + 2}" width="{value - _LEFT:.1f}" height="20" rx="2"/>',
            f'  <path class="range" d="M{low:.1f} {top + 12}H{high:.1f}"/>',
            f'  <text x="{max(value, high) + 8:.1f}" y="{top + 16}">{number_of(bar.value)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def number_of(value: float) -> str:
    """Return a figure with as many digits as matter: 12,345, 123, 12.3, 1.23."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
