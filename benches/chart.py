"""The ratios of a comparison for hello, as bars."""

from html import escape

from peers import RATIOS
from report import median

WIDTH, LABELS, BAR, GAP = 860, 400, 18, 10
OURS, AIM, TEXT = "#2f6f4f", "#c0392b", "#333333"


def svg(results):
    rates = {name: median(by["hello"], "rate") for name, by in results.items() if by.get("hello")}
    rows = [
        (f"{ours} / {theirs}", rates[ours] / rates[theirs], aim)
        for ours, theirs, aim in RATIOS
        if ours in rates and theirs in rates
    ]
    longest = max([1, *(max(ratio, aim) for _, ratio, aim in rows)])
    height = (BAR + GAP) * len(rows) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13" fill="{TEXT}">',
        f'<text x="{LABELS}" y="16">times as many requests a second, hello; red: the aim</text>',
    ]
    for number, (label, ratio, aim) in enumerate(rows):
        lines += bar(30 + number * (BAR + GAP), label, ratio, aim, (WIDTH - LABELS - 60) / longest)
    return "\n".join([*lines, "</svg>"]) + "\n"


def bar(top, label, ratio, aim, scale):
    base = top + BAR - 5
    return [
        f'<text x="{LABELS - 8}" y="{base}" text-anchor="end">{escape(label)}</text>',
        f'<rect x="{LABELS}" y="{top}" width="{ratio * scale:.1f}" height="{BAR}" fill="{OURS}"/>',
        f'<rect x="{LABELS + aim * scale:.1f}" y="{top - 2}" width="2" height="{BAR + 4}" fill="{AIM}"/>',
        f'<text x="{LABELS + ratio * scale + 8:.1f}" y="{base}">{ratio:.2f}</text>',
    ]
