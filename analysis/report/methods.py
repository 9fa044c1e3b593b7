"""A methods paragraph for a paper, from what was really done: as plain text, as LaTeX, and the entries for its bibliography."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..fit import Fit
from ..solver.losses import AsymmetricHuber, Huber, LeastAbsolute, LeastSquares
from ..study import Study
from .heldout import HeldOut
from .latex import escaped, greek, math, prose
from .numbers import count, flops, rounded, rounded_interval


@dataclass(frozen=True)
class Citation:
    """`authors` and `where` as BibTeX wants them; `short` as text has it."""

    short: str
    authors: str
    year: int
    title: str
    where: str


CITATIONS = {
    "besiroglu2024": Citation("Besiroglu et al., 2024", "Besiroglu, Tamay and Erdil, Ege and Barnett, Matthew and You, Josh", 2024, "Chinchilla Scaling: A replication attempt", "arXiv 2404.10102"),
    "davison1997": Citation("Davison & Hinkley, 1997", "Davison, Anthony C. and Hinkley, David V.", 1997, "Bootstrap Methods and their Application", "Cambridge University Press"),
    "field2007": Citation("Field & Welsh, 2007", "Field, Christopher A. and Welsh, Alan H.", 2007, "Bootstrapping clustered data", "Journal of the Royal Statistical Society B 69(3)"),
    "gneiting2007": Citation("Gneiting & Raftery, 2007", "Gneiting, Tilmann and Raftery, Adrian E.", 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation", "Journal of the American Statistical Association 102(477)"),
    "golub1973": Citation("Golub & Pereyra, 1973", "Golub, Gene H. and Pereyra, Victor", 1973, "The Differentiation of Pseudo-Inverses and Nonlinear Least Squares Problems Whose Variables Separate", "SIAM Journal on Numerical Analysis 10(2)"),
    "hampel1986": Citation("Hampel et al., 1986", "Hampel, Frank R. and Ronchetti, Elvezio M. and Rousseeuw, Peter J. and Stahel, Werner A.", 1986, "Robust Statistics: The Approach Based on Influence Functions", "Wiley"),
    "hoffmann2022": Citation("Hoffmann et al., 2022", "Hoffmann, Jordan and Borgeaud, Sebastian and Mensch, Arthur and others", 2022, "Training Compute-Optimal Large Language Models", "arXiv 2203.15556"),
    "huber1964": Citation("Huber, 1964", "Huber, Peter J.", 1964, "Robust Estimation of a Location Parameter", "Annals of Mathematical Statistics 35(1)"),
    "mackinnon1985": Citation("MacKinnon & White, 1985", "MacKinnon, James G. and White, Halbert", 1985, "Some heteroskedasticity-consistent covariance matrix estimators with improved finite sample properties", "Journal of Econometrics 29(3)"),
    "wood2001": Citation("Wood, 2001", "Wood, Simon N.", 2001, "Minimizing Model Fitting Objectives That Contain Spurious Local Minima by Bootstrap Restarting", "Biometrics 57(1)"),
    "yao2018": Citation("Yao et al., 2018", "Yao, Yuling and Vehtari, Aki and Simpson, Daniel and Gelman, Andrew", 2018, "Using Stacking to Average Bayesian Predictive Distributions", "Bayesian Analysis 13(3)"),
}  # fmt: skip
_CITED = re.compile(r" ?\[((?:@\w+(?:; )?)+)\]")
_PARTS = re.compile(rf"(?P<cited>{_CITED.pattern})|⟦(?P<math>[^⟦⟧]*)⟧")


def paragraph(fit: Fit, study: Study | None, held: HeldOut | None) -> str:
    """The paragraph with citations as [@key; @key] and formulas as ⟦L = A/N^alpha⟧."""
    sentences = [_data(fit), _objective(fit), _optimum(fit), _intervals(fit, study), _frontier(fit)]
    if study is not None and study.forecast is not None:
        sentences.append(_forecast(study, held))
    if study is not None and study.comparison is not None:
        best = study.comparison.best
        sentences.append(
            f"Laws were compared by the interval score of their forecasts of the runs of most compute [@gneiting2007]; the best was "
            f"{best.law.replace('_', ' ')} with {best.score:.3g} in log loss and a coverage of {100 * best.coverage:.0f} %."
        )
    return " ".join(sentence for sentence in sentences if sentence)


def as_text(marked: str) -> str:
    """Citations as (Hoffmann et al., 2022), formulas with Greek letters."""

    def shown(found: re.Match[str]) -> str:
        if found["cited"] is None:
            return greek(found["math"])
        return f" ({'; '.join(CITATIONS[key].short for key in _keys(found[2]))})"

    return _PARTS.sub(shown, marked)


def as_latex(marked: str) -> str:
    r"""Citations as \citep{hoffmann2022}, formulas as $...$, everything else escaped."""
    parts, last = [], 0
    for found in _PARTS.finditer(marked):
        parts.append(prose(marked[last : found.start()]))
        parts.append(math(found["math"]) if found["cited"] is None else rf"~\citep{{{','.join(_keys(found[2]))}}}")
        last = found.end()
    return "".join([*parts, prose(marked[last:])]) + "\n"


def bibliography(marked: str) -> str:
    """BibTeX entries of what the paragraph cites."""
    keys = sorted({key for found in _CITED.finditer(marked) for key in _keys(found[1])})
    entries = []
    for key in keys:
        cited = CITATIONS[key]
        fields = {
            "author": cited.authors,
            "title": f"{{{cited.title}}}",
            "year": str(cited.year),
            "howpublished": escaped(cited.where),
        }
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        entries.append(f"@misc{{{key},\n{lines}}}\n")
    return "\n".join(entries)


def _keys(group: str) -> list[str]:
    return [key.strip().removeprefix("@") for key in group.split(";")]


def _outside(name: str) -> str:
    """A name from a table, which must not look like a citation or a formula."""
    return re.sub(r"\[@|[⟦⟧]", " ", name)


def _data(fit: Fit) -> str:
    spans = [
        f"{name} from {show(low)} to {show(high)}"
        for (name, (low, high)), show in zip(fit.ranges.items(), (count, count, flops), strict=True)
    ]
    groups = f" in {fit.clusters} independent groups" if fit.clusters is not None else ""
    return (
        f"We fitted ⟦{fit.model.formula}⟧ [@hoffmann2022] to {fit.n_runs} runs{groups} ({'; '.join(spans)} FLOPs with ⟦C = 6ND⟧), where ⟦N⟧ counts "
        f"parameters (column {_outside(fit.columns['N'])}), ⟦D⟧ training tokens and ⟦L⟧ is the loss in nats per token (column "
        f"{_outside(fit.columns['loss'])})."
    )


def _objective(fit: Fit) -> str:
    match fit.loss:
        case Huber(delta=delta):
            term = f"Huber losses [@huber1964] with ⟦δ = {delta:g}⟧"
        case AsymmetricHuber(delta=delta, tau=tau):
            term = f"asymmetric Huber losses with ⟦δ = {delta:g}⟧ and ⟦τ = {tau:g}⟧"
        case LeastAbsolute():
            term = "absolute values"
        case LeastSquares():
            term = "squares"
        case other:
            term = f"{type(other).__name__} losses"
    weighted = "" if np.allclose(fit.rows.weight, 1.0) else "weighted "
    return f"The parameters minimise the {weighted}sum over runs of {term} of ⟦log L − log L̂⟧."


def _optimum(fit: Fit) -> str:
    best = fit.optimum
    return (
        f"The minimum was sought from {best.starts} starts, a grid of exponents with the amplitudes solved for [@golub1973] and restarts from "
        f"bootstrapped data [@wood2001], by damped Newton steps with exact second derivatives; {best.starts_agreeing} starts ended in the reported "
        f"optimum, with objective {best.objective:.6g}, relative gradient {best.gradient_norm:.1e} and a scaled Hessian of condition "
        f"{best.condition:.2g}. Estimates from optimisers that stopped early have differed much from such optima [@besiroglu2024]."
    )


def _intervals(fit: Fit, study: Study | None) -> str:
    if not len(fit.samples):
        return "No intervals were computed."
    cited = (
        "@field2007" if "cluster" in fit.resampling and "pairs" in fit.resampling else "@davison1997; @mackinnon1985"
    )
    said = f"Intervals are 95 % percentile intervals from {len(fit.samples):,} refits ({fit.resampling}; seed {fit.seed}) [{cited}]"
    if study is None or not study.profiles:
        return f"{said}."
    return (
        f"{said}; profile intervals hold the values at which the objective, minimised over everything else, stays below the cut-off of a robust "
        "likelihood-ratio test [@hampel1986]."
    )


def _frontier(fit: Fit) -> str:
    edge = fit.frontier
    if not np.isfinite(edge.a):
        return ""
    within = "" if edge.a_ci95 is None else f" (95 %: {rounded_interval(edge.a_ci95)})"
    return f"Minimising ⟦L⟧ at ⟦C = 6ND⟧ gives ⟦N* ∝ C^a⟧ with ⟦a = {rounded(edge.a, edge.a_ci95)}⟧{within}."


def _forecast(study: Study, held: HeldOut | None) -> str:
    assert study.forecast is not None
    laws = sorted({member.law.name.replace("_", " ") for member in study.forecast.members})
    said = (
        f"Predictive intervals of new runs come from a stack [@yao2018] of the laws {', '.join(laws)}, weighted by how well they forecast runs of "
        "more compute than they were fitted to, and include the noise of single runs and a drift that grows with the distance in log compute."
    )
    if held is None:
        return said
    return (
        f"{said} Fitted to the {held.n_trained} runs of at most {flops(held.trained)} FLOPs, the intervals held {int(held.inside.sum())} of the "
        f"other {len(held.rows)} runs."
    )
