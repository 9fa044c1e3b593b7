"""Text and numbers as LaTeX wants them."""

from __future__ import annotations

import re

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "τ": r"$\tau$", "×": r"$\times$", "≤": r"$\leq$",
    "−": r"$-$", "L̂": r"$\hat{L}$", "∝": r"$\propto$", "–": "--", "—": "---",
}  # fmt: skip
_SPECIALS = re.compile("|".join(map(re.escape, sorted(_SPECIAL, key=len, reverse=True))))
_POWER = re.compile(r"(?<![\w.])(-?\d[\d.,]*)e([+-]?\d+)(?!\w)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}
_MATH = {
    "alpha": r"\alpha ", "beta": r"\beta ", "gamma": r"\gamma ", "δ": r"\delta ", "τ": r"\tau ", "log": r"\log ", "exp": r"\exp ",
    "L̂": r"\hat{L}", "∝": r"\propto ", "*": "^*", "−": "-", "%": r"\%",
}  # fmt: skip
_SYMBOLS = re.compile("|".join(map(re.escape, _MATH)))


def escaped(text: str) -> str:
    """Any text with what LaTeX would act on made harmless; line breaks become spaces."""
    return _SPECIALS.sub(lambda found: _SPECIAL[found[0]], re.sub(r"\s+", " ", text))


def prose(text: str) -> str:
    """Text with its numbers: 3e17 as 3 x 10^17."""
    return _powers(escaped(text))


def math(formula: str) -> str:
    """A formula as laws state theirs: L = A/N^alpha + (B/D)^(alpha/beta)."""
    grouped = re.sub(r"\^\(([^()]*)\)", r"^{\1}", formula)
    written = _SYMBOLS.sub(lambda found: _MATH[found[0]], grouped)
    return f"${re.sub(' +', ' ', written).strip()}$"


def greek(formula: str) -> str:
    """The same formula for a reader."""
    return re.sub("|".join(_GREEK), lambda found: _GREEK[found[0]], formula)


def number(text: str) -> str:
    """A number or an interval as the page shows it, "4e7" as 4 x 10^7 and "1 to 2" as [1, 2]."""
    plain = _THOUSANDS.sub(r"\\,", text.replace("—", "---"))
    ends = [re.sub(r"^-(?=[\d.])", "$-$", _powers(end)) for end in plain.split(" to ")]
    return ends[0] if len(ends) == 1 else f"[{', '.join(ends)}]"


def _powers(text: str) -> str:
    return _POWER.sub(lambda found: rf"${found[1]} \times 10^{{{int(found[2])}}}$", text)
