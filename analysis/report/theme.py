"""The colours of the page, light and dark, under the names of its CSS variables; figures for papers take the light ones."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import plotly.colors

SHADES = 13

_LIGHT = {
    "page": "#fbfbf9", "card": "#ffffff", "ink": "#1c2024", "muted": "#5b636b", "axis": "#a3aab1", "grid": "#e9ebed", "rule": "#dcdfe2",
    "accent": "#c8410b", "band": "rgba(200, 65, 11, 0.16)", "low": "#d6e2ec", "high": "#fbfcfd", "contour": "#9fb0bf",
    "warn": "#fff4e3", "warn-edge": "#d98a1f", "good": "#1d6b42", "bad": "#a8231c",
    "good-back": "#e2f2e8", "bad-back": "#fbe5e3", "plain-back": "#eceef0",
}  # fmt: skip
_DARK = {
    "page": "#14171a", "card": "#1b1f23", "ink": "#e6e8ea", "muted": "#a4adb5", "axis": "#626b74", "grid": "#2b3036", "rule": "#343a41",
    "accent": "#ff9a62", "band": "rgba(255, 154, 98, 0.2)", "low": "#2c3e4f", "high": "#1c2126", "contour": "#51626f",
    "warn": "#33270f", "warn-edge": "#d99a3c", "good": "#8fd6ad", "bad": "#ffa39b",
    "good-back": "#1c3a29", "bad-back": "#4a211e", "plain-back": "#2d3238",
}  # fmt: skip


def palettes() -> dict[str, dict[str, str]]:
    """{"light", "dark"} -> {name: colour}: those above and n-0 to n-12 from small to large, viridis less the end that the page swallows."""
    light = plotly.colors.sample_colorscale("Viridis", list(np.linspace(0.0, 0.78, SHADES)))
    dark = plotly.colors.sample_colorscale("Viridis", list(np.linspace(0.3, 1.0, SHADES)))
    return {"light": _LIGHT | _shades(light), "dark": _DARK | _shades(dark)}


def shade(place: float) -> str:
    """The colour of a place between 0 and 1 as a CSS variable."""
    return f"var(--n-{round(float(place) * (SHADES - 1))})"


def on_paper(colour: str, palette: Mapping[str, str]) -> tuple[float, float, float, float]:
    """A CSS variable's colour as matplotlib wants it: red, green, blue, opacity, each from 0 to 1."""
    value = palette[colour.removeprefix("var(--").removesuffix(")")]
    if value.startswith("#"):
        red, green, blue = (int(value[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return red, green, blue, 1.0
    red, green, blue, *opacity = (float(number) for number in re.findall(r"[\d.]+", value))
    return red / 255, green / 255, blue / 255, opacity[0] if opacity else 1.0


def _shades(colours: list[str]) -> dict[str, str]:
    return {f"n-{i}": colour for i, colour in enumerate(colours)}
