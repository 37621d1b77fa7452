"""Goals of products and of the scorer fail where their figures do. Knows no kernel."""

from __future__ import annotations

import pytest

from kernels.readme import products as products_module
from kernels.readme.goals import Figures, Goal, goals
from kernels.readme.products import Product, products

GPU = "a GPU"
FAST, SLOW = 10.0, 25.0  # microseconds beside bf16's 20


def product(rows: int, provider: str, median: float, layer: str = "down") -> dict[str, str]:
    names = {"op": f"quantized_gemm {layer}", "mode": "against bf16", "model": "Qwen3-0.6B"}
    run = {"gpu": GPU, "commit": "a", "provider": provider, "median_us": str(median)}
    return names | run | {"tokens": str(rows)}


def shape(rows: int, **microseconds: float) -> list[dict[str, str]]:
    """A shape whose bf16 product takes 20 us; names of providers with _ for blanks."""
    times = {"bf16": 20.0, **microseconds}
    return [product(rows, name.replace("_", " "), median) for name, median in times.items()]


def goal(asked: str, *shapes: list[dict[str, str]]) -> Goal:
    found = goals(Figures([row for rows in shapes for row in rows]))
    return next(one for one in found if one.asked.startswith(asked))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """What the dispatcher takes, by rows; ours where nothing is said."""
    choices: dict[int, str] = {}

    def choice(gpu: str, kind: str, rows: int, columns: int, depth: int) -> str:
        assert (gpu, columns, depth) == (GPU, 1024, 3072)
        return choices.get(rows, "ours")

    monkeypatch.setattr(products_module, "measured_choice", choice)
    return choices


@pytest.mark.parametrize(("kind", "other"), [("int8", "fp8"), ("fp8", "int8")])
def test_products_miss_their_goal_where_one_shape_is_slow(
    kind: str, other: str, taken: dict[int, str]
) -> None:
    fast = shape(2048, **{f"ours_{kind}": FAST})
    assert goal(f"{kind} products", fast).reached is True
    assert goal(f"{other} products", fast).reached is None
    missed = goal(f"{kind} products", fast, shape(8192, **{f"ours_{kind}": 16.0}))
    assert missed.reached is False
    assert missed.measured == "1.25 to 2.00x, 1.3x at 1 of 2 shapes"


def test_a_choice_of_bf16_reaches_no_product_goal(taken: dict[int, str]) -> None:
    taken[2048] = "dense"
    slow = shape(2048, ours_int8=SLOW)
    assert goal("int8 products", slow).reached is False
    dispatched = goal("the dispatcher takes no int8", slow)
    assert dispatched.reached is True
    assert dispatched.measured == "1 of 1 shapes; below 1.3x it takes eight bits at 0 and bf16 at 1"


def test_a_dispatcher_that_takes_the_slower_misses(taken: dict[int, str]) -> None:
    found = goal("the dispatcher takes no int8", shape(2048, ours_int8=SLOW))
    assert found.reached is False
    assert found.measured == "0 of 1 shapes; below 1.3x it takes eight bits at 1 and bf16 at 0"


def test_what_was_not_timed_is_no_choice_that_is_fast(taken: dict[int, str]) -> None:
    taken[2048] = "vendor"  # in int8, of which torch times the bare product alone
    rows = shape(2048, ours_int8=FAST, torch_int8=FAST)
    assert goal("the dispatcher takes no int8", rows).reached is False


def test_the_vendor_counts_among_the_fp8_products(taken: dict[int, str]) -> None:
    taken[2048] = "vendor"
    rows = shape(2048, ours_fp8=SLOW, torch_fp8_coarse=FAST)
    assert goal("fp8 products", rows).reached is True
    assert goal("the dispatcher takes no fp8", rows).reached is True


def test_few_rows_are_not_asked_for(taken: dict[int, str]) -> None:
    assert goal("int8 products", shape(511, ours_int8=SLOW)).reached is None
    assert goal("int8 products", shape(512, ours_int8=SLOW)).reached is False


def test_a_layer_that_no_model_has_was_never_chosen() -> None:
    rows = [product(2048, name, 20.0, layer="router") for name in ("bf16", "ours int8")]
    found = products(
        {("quantized_gemm router", "", "Qwen3-0.6B", "2048"): by_provider(rows)}, "int8"
    )
    assert found == [Product(1.0, None, False)]


def by_provider(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {row["provider"]: row for row in rows}


def scored(shape: str, cache: str, **figures: float) -> dict[str, object]:
    return {"provider": "fairslate", "shape": shape, "cache": cache, **figures}


def test_the_scorer_is_judged_cold_and_its_warm_figure_told() -> None:
    rows = [scored("16", "warm", p95_ms=1.0), scored("16", "cold", p95_ms=11.0)]
    found = next(one for one in goals(Figures([], scorer=rows)) if one.asked.startswith("16"))
    assert (found.measured, found.reached) == ("11.0 ms cold, 1.0 ms warm", False)
    alone = next(one for one in goals(Figures([], scorer=rows[1:])) if one.asked.startswith("16"))
    assert alone.measured == "11.0 ms cold"
    warm = next(one for one in goals(Figures([], scorer=rows[:1])) if one.asked.startswith("16"))
    assert warm.reached is None


def test_the_scorers_rate_is_judged_by_what_it_reaches() -> None:
    rows = [scored("D", "cold", items_per_s=4999.0, p99_ms=500.0)]
    found = {one.asked: one.reached for one in goals(Figures([], scorer=rows))}
    assert found["shape D, context cold: 5,000 items/s"] is False
    assert found["shape D, context cold, p99: 500 ms"] is True
