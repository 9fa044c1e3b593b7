"""A compute budget said in FLOPs, GPU-hours or dollars, and what was assumed to turn one into another."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..laws import FitError
from ..plain import plain_fields

PETAFLOPS_DAY = 1e15 * 86400.0
_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "bn": 1e9, "T": 1e12}
_FLOP_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_HOURS = {"hour": 1.0, "hr": 1.0, "h": 1.0, "day": 24.0, "week": 168.0}
_NUMBER = r"(\d[\d_,]*\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
_DOLLARS = re.compile(rf"(?:\$|USD)\s*{_NUMBER}\s*(k|M|B|bn|T|)|{_NUMBER}\s*(k|M|B|bn|T|)\s*(?:\$|USD|dollars?)")
_GPU_TIME = re.compile(rf"{_NUMBER}\s*(k|M|B|bn|T|)\s*gpu[\s-]*(hour|hr|h|day|week)s?", re.IGNORECASE)
_PF_DAYS = re.compile(rf"{_NUMBER}\s*(?:pf|petaflop/s|petaflops)[\s-]*days?", re.IGNORECASE)
_FLOPS = re.compile(rf"{_NUMBER}\s*(?:([kmgtpezy]?)flops?)?", re.IGNORECASE)


@dataclass(frozen=True)
class Machine:
    """What one GPU sustains and costs. The defaults are assumptions, to be replaced by your own figures:

    peak: FLOP/s of dense bf16 on an H100 SXM (989.4e12: NVIDIA's H100 datasheet gives 1,979e12 with sparsity, twice that of dense products).
    mfu: the share of the peak that training reaches; 38 to 43 % for Llama 3 405B on H100 (arXiv 2407.21783, table 4). Models of a few
        million parameters reach far less.
    dollars_per_hour: rent of one GPU; what DeepSeek-V3's report assumes for an H800 (arXiv 2412.19437, table 1).
    """

    name: str = "H100 SXM, dense bf16"
    peak: float = 989.4e12
    mfu: float = 0.40
    dollars_per_hour: float = 2.0

    def __post_init__(self) -> None:
        for key in ("peak", "dollars_per_hour"):
            if not 0 < getattr(self, key) < math.inf:
                raise FitError(f"{key} must be a positive number, not {getattr(self, key):g}")
        if not 0 < self.mfu <= 1:
            raise FitError(
                f"mfu is the share of the peak that training reaches, above 0 and at most 1, not {self.mfu:g}"
            )

    @property
    def flops_per_hour(self) -> float:
        return self.peak * self.mfu * 3600.0


H100 = Machine()


@dataclass(frozen=True)
class Budget:
    """FLOPs of training, C = 6 N D, with the words they came from and the machine that prices them."""

    flops: float
    given: str
    machine: Machine
    assumptions: str  # in plain words, what `flops` rests on; empty when FLOPs were given

    @property
    def gpu_hours(self) -> float:
        return self.flops / self.machine.flops_per_hour

    @property
    def dollars(self) -> float:
        return self.gpu_hours * self.machine.dollars_per_hour

    def to_json(self) -> dict[str, object]:
        """given, flops, gpu_hours, dollars, assumptions and the machine with peak (FLOP/s), mfu and dollars_per_hour."""
        return plain_fields(self) | {"gpu_hours": self.gpu_hours, "dollars": self.dollars}


def flops_of(text: str, machine: Machine = H100) -> Budget:
    """The budget that `text` names: "1e18", "3 EFLOP", "2 PF-days", "$500", "1.5k USD", "200 GPU-hours", "30 gpu-days".

    Raises FitError for anything else, and for a budget that is not positive and finite.
    """
    given = text.strip()
    sustained = f"{machine.peak / 1e12:,.0f} TFLOP/s peak ({machine.name}) x {machine.mfu:.0%} MFU"
    if found := _DOLLARS.fullmatch(given):
        dollars = _value(found[1] or found[3]) * _SUFFIXES[found[2] or found[4] or ""]
        flops = dollars / machine.dollars_per_hour * machine.flops_per_hour
        assumptions = f"{machine.dollars_per_hour:g} dollars a GPU-hour, {sustained}"
    elif found := _GPU_TIME.fullmatch(given):
        hours = _value(found[1]) * _suffix(found[2]) * _HOURS[found[3].lower()]
        flops, assumptions = hours * machine.flops_per_hour, sustained
    elif found := _PF_DAYS.fullmatch(given):
        flops, assumptions = _value(found[1]) * PETAFLOPS_DAY, ""
    elif found := _FLOPS.fullmatch(given):
        flops, assumptions = _value(found[1]) * _FLOP_PREFIXES[(found[2] or "").lower()], ""
    else:
        raise FitError(
            f"budget {given[:40]!r} is not understood: give FLOPs (1e18, 3 EFLOP, 2 PF-days), dollars ($500, 1.5k USD)"
            " or GPU time (200 GPU-hours, 30 GPU-days)"
        )
    if not 0 < flops < math.inf:
        raise FitError(f"budget {given[:40]!r} must be positive and finite")
    return Budget(flops, given, machine, assumptions)


def _value(digits: str) -> float:
    return float(digits.replace(",", "").replace("_", ""))


def _suffix(text: str) -> float:
    """k, M, B, T of GPU time, in either case."""
    return next(value for suffix, value in _SUFFIXES.items() if suffix.lower() == text.lower())
