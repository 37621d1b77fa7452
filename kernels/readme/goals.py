"""Sets the kept figures of devices beside what they should be. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernels.bench.special import AGAINST_PAIR, NORM, PAIR
from kernels.kept.earlier import MARK, mark
from kernels.kept.figures import (
    EQUAL,
    RIVALS,
    Group,
    Groups,
    Row,
    copy_share,
    grouped,
    over,
    speeds,
    value,
)
from kernels.readme.products import Product, products
from kernels.readme.reasons import reason_of_goal
from kernels.readme.report import table

USUAL = "8192"  # tokens
LARGE = "32768"  # tokens at which a row of the smallest model moves 64 MB a tensor
MISSED = " **missed**"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one device's runs left: rows of operations, of training steps and of the scorer."""

    bench: Sequence[Row]
    train: Sequence[Row] = ()
    scorer: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Goal:
    """What was asked, what was measured, whether it is reached; None where nothing was measured."""

    asked: str
    measured: str
    reached: bool | None

    def cell(self) -> str:
        if self.reached is None:
            return "not measured"
        return self.measured + ("" if self.reached else MISSED)


def goals_table(devices: Mapping[str, Figures]) -> str:
    """One line for each goal, a column for each device, and the reason for what is missed."""
    found = {name: {goal.asked: goal for goal in goals(kept)} for name, kept in devices.items()}
    asked = dict.fromkeys(text for by_text in found.values() for text in by_text)
    lines = []
    for text in asked:
        cells = [by_text.get(text, Goal(text, "", None)).cell() for by_text in found.values()]
        missed = any(cell.endswith(MISSED) for cell in cells)
        lines.append([text, *cells, reason_of_goal(text) if missed else ""])
    return table(["goal", *found, "why missed"], lines)


def goals(kept: Figures) -> list[Goal]:
    """All goals, those nothing was measured for among them."""
    groups = grouped(kept.bench)
    return [
        *_inference(groups),
        *_scoring(kept.scorer),
        *_training(groups),
        *_steps(kept.train),
        *_everywhere(groups),
    ]


def _find(groups: Groups, op: str, mode: str, model: str = "", tokens: str = "") -> Group:
    """The first group of that operation, mode, model and length; empty if there is none."""
    for (name, kind, models, length), group in groups.items():
        if name == op and kind == mode and model in models and tokens in ("", length):
            return group
    return {}


def _judged(asked: str, measured: float | None, text: str, good: Callable[[float], bool]) -> Goal:
    if measured is None:
        return Goal(asked, "", None)
    return Goal(asked, text.format(measured), good(measured))


def _inference(groups: Groups) -> list[Goal]:
    head = _find(groups, "score_head", "against the vocabulary")
    alone, in_a_row = value(head, "ours"), value(head, "ours, one of 20 in a row")
    gain = over(value(head, "full vocabulary"), alone)
    goals = [
        _judged(
            "`score_head` 64 x 1024, K = 2, alone in a graph: 5 us", alone, "{:.1f} us", _at_most(5)
        ),
        _judged("the same, one of 20 in a graph: 5 us", in_a_row, "{:.1f} us", _at_most(5)),
        _judged("`score_head` 15x the whole vocabulary", gain, "{:.1f}x", _at_least(15)),
    ]
    for model in ("Qwen3-0.6B", "Llama-3.2-1B"):
        name, mode = "paged_attention P=512 N=32 L=64", "against separate sequences"
        group = _find(groups, name, mode, model)
        gain = over(value(group, "separate sequences"), value(group, "ours"))
        asked = f"attention 4x separate sequences at P=512, N=32, L=64, {model}"
        goals.append(_judged(asked, gain, "{:.2f}x" + _remark(group), _at_least(4)))
    return goals + [
        goal for kind in ("int8", "fp8") for goal in (*_products(groups, kind), _pair(groups, kind))
    ]


def _pair(groups: Groups, kind: str) -> Goal:
    group = _find(groups, f"{NORM} {kind}", AGAINST_PAIR)
    gain = over(value(group, PAIR), value(group, "ours"))
    return _judged(f"`{NORM} {kind}` 1.4x its unfused pair", gain, "{:.2f}x", _at_least(1.4))


def _remark(group: Group) -> str:
    """What a reader of our figure must know: its code changed, or its rival ran at another time."""
    apart = " (ours timed beside other settings, not beside its rival)"
    return mark(group) + (apart if group.get("ours", {}).get("note") else "")


def _scoring(scorer: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The scorer in bf16, one job at a time: with a context not read before, warm ones beside."""
    rows = {
        (row["shape"], row["cache"]): row for row in scorer if row.get("provider") == "fairslate"
    }
    few, many = (
        [rows.get((shape, cache), {}) for cache in ("cold", "warm")] for shape in ("16", "D")
    )
    few_p95 = "16 candidates, context cold, p95: 10 ms"
    rate, many_p99 = "shape D, context cold: 5,000 items/s", "shape D, context cold, p99: 500 ms"
    return [
        _cold(few_p95, [row.get("p95_ms") for row in few], "{:.1f} ms", _at_most(10)),
        _cold(rate, [row.get("items_per_s") for row in many], "{:,.0f}", _at_least(5000)),
        _cold(many_p99, [row.get("p99_ms") for row in many], "{:.1f} ms", _at_most(500)),
    ]


def _cold(
    asked: str, measured: Sequence[float | None], text: str, good: Callable[[float], bool]
) -> Goal:
    """Judged by the first, of a cold context; the warm one, which other tables show, is told."""
    cold, warm = measured
    told = f"{text} cold" + (f", {text.format(warm)} warm" if warm is not None else "")
    return _judged(asked, cold, told, good)


def _products(groups: Groups, kind: str) -> list[Goal]:
    """Of the fastest product of that kind at each shape, and of the one `gemm_choice` takes."""
    found = products(groups, kind)
    asked = f"{kind} products 1.3x bf16 at 512 rows and more"
    dispatched = f"the dispatcher takes no {kind} product slower than bf16"
    if not found:
        return [Goal(asked, "", None), Goal(dispatched, "", None)]
    gains = [product.fastest for product in found]
    fast = sum(gain >= 1.3 for gain in gains)
    text = f"{min(gains):.2f} to {max(gains):.2f}x, 1.3x at {fast} of {len(gains)} shapes"
    changed = sum(bool(mark(group, f"ours {kind}")) for group in groups.values())
    text += f" ({changed} shapes{MARK})" if changed else ""
    return [Goal(asked, text, fast == len(gains)), _dispatched(dispatched, found)]


def _dispatched(asked: str, found: Sequence[Product]) -> Goal:
    """By the rows' own times; what it takes where nothing in eight bits reaches 1.3x is told."""
    good = sum(product.taken is not None and product.taken >= 1 for product in found)
    slow = [product.dense for product in found if product.fastest < 1.3]
    text = f"{good} of {len(found)} shapes"
    if slow:
        dense = sum(slow)
        text += f"; below 1.3x it takes eight bits at {len(slow) - dense} and bf16 at {dense}"
    return Goal(asked, text, good == len(found))


def _training(groups: Groups) -> list[Goal]:
    goals = []
    for op in ("rms_norm", "add_rms_norm", "swiglu", "rope"):
        share = copy_share(_find(groups, op, "forward", "Qwen3-0.6B", LARGE))
        asked = f"`{op}` 85 % of a copy at 64 MB and more"
        goals.append(_judged(asked, share, "{:.0%}", _at_least(0.85)))
    kd = _find(groups, "linear_distillation jsd", "forward+backward", "Llama-3.2-1B", "8192")
    peak = value(kd, "ours", "peak_mb")
    gain = over(value(kd, "eager"), value(kd, "ours"))
    return [
        *goals,
        *(_shares(groups, op, 0.8, "a copy") for op in ("cross_entropy", "cross_entropy in place")),
        _shares(groups, "linear_cross_entropy", 0.6, "a bf16 GEMM"),
        _shares(groups, "linear_distillation jsd", 0.6, "a bf16 GEMM"),
        _judged(
            "distillation, 8192 tokens, V = 128,256: 6,000 MB", peak, "{:.0f} MB", _at_most(6000)
        ),
        _judged("the same, no slower than eager", gain, "{:.1f}x", _at_least(1)),
    ]


def _shares(groups: Groups, op: str, least: float, limit: str) -> Goal:
    """Of what is possible, with gradients, at the usual length of each model."""
    shares = [
        share
        for (name, mode, _, tokens), group in groups.items()
        if (name, mode, tokens) == (op, "forward+backward", USUAL)
        and (share := value(group, "ours", "share"))
    ]
    asked = f"`{op}` {least:.0%} of {limit} at 8,192 tokens".replace("%", " %")
    if not shares:
        return Goal(asked, "", None)
    found = dict.fromkeys(f"{share:.0%}" for share in sorted(shares)[:: max(1, len(shares) - 1)])
    return Goal(asked, " to ".join(found), min(shares) >= least)


def _steps(train: Sequence[Row]) -> list[Goal]:
    goals = []
    for (model,), group in grouped(train, ("model",)).items():
        plain, ours, liger = (group.get(name, {}) for name in ("eager", "ours", "liger"))
        speed = over(_rate(ours), _rate(plain))
        memory = over(_peak(ours), _peak(plain))
        ahead = over(_rate(ours), _rate(liger))
        goals += [
            _judged(f"training step, {model}: 1.2x tokens/s", speed, "{:.2f}x", _at_least(1.2)),
            _judged(f"training step, {model}: 40 % of the memory", memory, "{:.0%}", _at_most(0.4)),
            _judged(f"training step, {model}: ahead of Liger", ahead, "{:.2f}x", _at_least(1)),
        ]
    return goals or [Goal("training step", "", None)]


def _rate(row: Row) -> float | None:
    return float(row["tokens_per_s"]) if row.get("tokens_per_s") else None


def _peak(row: Row) -> float | None:
    return float(row["peak_gb"]) if row.get("peak_gb") else None


def _everywhere(groups: Groups) -> list[Goal]:
    """Rows within 2 % of a rival count as equal: as much differs from run to run."""
    found = [speeds(group) for group in groups.values()]
    result = []
    for rival in RIVALS[:2]:
        asked = f"no slower than {rival} on every row"
        ratios = [speed[rival] for speed in found if rival in speed]
        good = sum(ratio >= EQUAL for ratio in ratios)
        text = f"{good} of {len(ratios)} rows"
        result.append(Goal(asked, text, good == len(ratios) if ratios else None))
    return result


def _at_most(limit: float) -> Callable[[float], bool]:
    return lambda measured: measured <= limit


def _at_least(limit: float) -> Callable[[float], bool]:
    return lambda measured: measured >= limit
