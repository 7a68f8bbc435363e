"""Rate-distortion curves as one SVG: KL divergence on a log axis against true bits a weight.

Written by hand, since the benches need nothing but Python itself. Panels share both axes, so that
models compare at a glance; every curve carries its name right of its panel in place of a legend,
joined to its end by a thin line where it ends earlier.
The background is white in its own right, so that the picture also reads on a dark page.
"""

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

PANEL_WIDTH, PANEL_HEIGHT = 320, 330
LEFT, TOP, BOTTOM = 86, 42, 56
LABEL_WIDTH = 190  # right of a panel, for the names of its curves
LABEL_HEIGHT = 17  # least distance of two names
INK, MUTED, GRID, FAINT = "#222222", "#555555", "#d9d9d9", "#f0f0f0"
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"


@dataclass
class Curve:
    """Points (bits a weight, KL in nats a token), fewest bits first; the name picks the style."""

    name: str
    points: list[tuple[float, float]]


@dataclass
class Panel:
    title: str
    curves: list[Curve]


# Colours that stay apart for the colour-blind; marker and dashes say the same again.
STYLES = {
    "companded": ("#b34700", "square", "none"),
    "lloyd, no feedback": ("#6b6b6b", "triangle", "5 3"),
    "lloyd": ("#4c93c6", "circle", "none"),
    "gptq, two-sided, groups of 64": ("#c24d4d", "circle", "2 3"),
    "entropy": ("#0063a6", "circle", "none"),
    "llm-compressor GPTQ": ("#a3006d", "square", "none"),
    "llm-compressor RTN": ("#a3006d", "triangle", "5 3"),
    "GPTQModel GPTQ": ("#6a3fb5", "square", "2 3"),
    "GPTQModel GPTAQ": ("#6a3fb5", "triangle", "2 3"),
    "AutoRound": ("#007a4d", "square", "none"),
    "llama.cpp": ("#8a6d00", "circle", "none"),
    "HQQ": ("#444444", "square", "5 3"),
}


def _text(x, y, words, size=12, anchor="start", colour=INK, extra=""):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}"{extra}>{escape(words)}</text>'
    )


def _line(x1, y1, x2, y2, colour, width=1.0):
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"/>'
    )


def _marker(shape, x, y, colour):
    style = f'fill="{colour}" stroke="#ffffff" stroke-width="1"'
    if shape == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" {style}/>'
    if shape == "triangle":
        corners = f"{x:.1f},{y - 5.2:.1f} {x - 5:.1f},{y + 3.8:.1f} {x + 5:.1f},{y + 3.8:.1f}"
        return f'<polygon points="{corners}" {style}/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.4" {style}/>'


def _spread(wanted, lowest):
    """Moves label heights apart to LABEL_HEIGHT, none below `lowest` (the largest y); keeps their
    order; returns them as given."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    for above, below in zip(order, order[1:]):
        placed[below] = max(placed[below], placed[above] + LABEL_HEIGHT)
    for i in reversed(order):
        placed[i] = min(placed[i], lowest)
        lowest = placed[i] - LABEL_HEIGHT
    return placed


class _Axes:
    """Where a value lies, for one panel whose left edge is at x = left."""

    def __init__(self, panels, left):
        points = [p for panel in panels for curve in panel.curves for p in curve.points]
        self.left = left
        # Runs end a little below the size asked for: to the nearest half bit.
        self.first_bit = math.floor(min(x for x, _ in points) * 2 + 0.1) / 2
        self.last_bit = math.ceil(max(x for x, _ in points) * 2 - 0.1) / 2
        self.low = _step_down(min(y for _, y in points))
        self.high = _step_up(max(y for _, y in points))

    def x(self, bits):
        span = self.last_bit - self.first_bit
        return self.left + 14 + (PANEL_WIDTH - 28) * (bits - self.first_bit) / span

    def y(self, kl):
        share = math.log(kl / self.low) / math.log(self.high / self.low)
        return TOP + PANEL_HEIGHT * (1 - share)


def _step_down(value):
    """The next of 1, 2, 5 times a power of ten at or below a value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(m * power for m in (1, 2, 5) if m * power <= value * (1 + 1e-9))


def _step_up(value):
    power = 10.0 ** math.floor(math.log10(value))
    return min(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-9))


def _ticks(low, high):
    """(value, label or None) of every 1..9 times a power of ten in [low, high]."""
    ticks = []
    for exponent in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1):
        for digit in range(1, 10):
            value = digit * 10.0**exponent
            if low * 0.999 <= value <= high * 1.001:
                label = f"{value:.{max(0, -exponent)}f}" if digit in (1, 2, 5) else None
                ticks.append((value, label))
    return ticks


def _draw_panel(panel, axes, y_labels):
    out = []
    left, right, bottom = axes.left, axes.left + PANEL_WIDTH, TOP + PANEL_HEIGHT
    for value, label in _ticks(axes.low, axes.high):
        y = axes.y(value)
        out.append(_line(left, y, right, y, GRID if label else FAINT))
        if label and y_labels:
            out.append(_text(left - 8, y + 4, label, anchor="end", colour=MUTED))
    for half in range(round(axes.first_bit * 2), round(axes.last_bit * 2) + 1):
        x = axes.x(half / 2)
        whole = half % 2 == 0
        out.append(_line(x, TOP, x, bottom, GRID if whole else FAINT))
        out.append(_line(x, bottom, x, bottom + (5 if whole else 3), MUTED))
        out.append(_text(x, bottom + 20, f"{half / 2:g}", anchor="middle", colour=MUTED))
    out.append(_line(left, bottom, right, bottom, MUTED))
    out.append(_text(left, TOP - 14, panel.title, size=14, extra=' font-weight="bold"'))
    out.append(
        _text((left + right) / 2, bottom + 42, "bits a weight, every stored byte counted",
              anchor="middle")
    )
    ends = []
    for curve in panel.curves:
        colour, shape, dashes = STYLES[curve.name]
        width = 2.6 if curve is panel.curves[-1] else 1.6
        places = [(axes.x(bits), axes.y(kl)) for bits, kl in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-dasharray="{dashes}"/>'
        )
        out += [_marker(shape, x, y, colour) for x, y in places]
        ends.append(places[-1])
    heights = _spread([y for _, y in ends], bottom - 4)
    for curve, (x, end), y in zip(panel.curves, ends, heights):
        colour = STYLES[curve.name][0]
        if (right - x, end) != (14, y):
            out.append(_line(x + 7, end, right + 4, y, colour, 0.5))
        out.append(_text(right + 8, y + 4, curve.name, size=13, colour=colour))
    return out


def rate_distortion_svg(panels, title):
    """The picture as text. Every panel needs a curve, every curve two points of positive KL."""
    step = PANEL_WIDTH + LABEL_WIDTH
    width = LEFT + step * len(panels) + 8
    height = TOP + PANEL_HEIGHT + BOTTOM
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="{FONT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>',
    ]
    middle = TOP + PANEL_HEIGHT / 2
    out.append(
        _text(18, middle, "KL divergence, nats a token (log scale)", anchor="middle",
              extra=f' transform="rotate(-90 18 {middle:.1f})"')
    )
    for i, panel in enumerate(panels):
        out += _draw_panel(panel, _Axes(panels, LEFT + step * i), y_labels=i == 0)
    out.append("</svg>")
    return "\n".join(out) + "\n"
