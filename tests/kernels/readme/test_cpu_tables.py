"""The tables of a CPU's rows, made of figures typed in here. Knows no kernel."""

from __future__ import annotations

from kernels.bench.cpu_rows import (
    AGAINST_FP32,
    AGAINST_OTHERS,
    IN_EACH_DTYPE,
    MODEL,
    attention_row,
)
from kernels.kept.figures import Groups, grouped
from kernels.readme.cpu_tables import (
    NOT_MEASURED,
    attention_table,
    attention_told,
    dtypes_table,
    products_table,
    products_told,
)


def groups(op: str, mode: str, microseconds: dict[str, str]) -> Groups:
    names = {"op": op, "mode": mode, "model": MODEL.name, "tokens": "64", "gpu": "", "commit": ""}
    return grouped(
        [names | {"provider": name, "median_us": us} for name, us in microseconds.items()]
    )


def test_an_operation_is_shown_in_each_dtype_it_has() -> None:
    both = groups("rope", IN_EACH_DTYPE, {"fp32": "3000", "bf16": "1000"})
    one = groups("weight_only_gemm", IN_EACH_DTYPE, {"bf16": "1000"})
    assert dtypes_table(both | one).splitlines()[2:] == [
        "| `rope` | Qwen3-0.6B | 64 | 3 | 1 | 3.00x |",
        "| `weight_only_gemm` | Qwen3-0.6B | 64 | - | 1 | - |",
    ]


def test_products_that_are_as_fast_as_asked_are_counted() -> None:
    fast = groups(
        "linear a", AGAINST_FP32, {"fp32": "5000", "bf16": "2500", "int8 dynamic": "2000"}
    )
    slow = groups(
        "linear b", AGAINST_FP32, {"fp32": "5000", "bf16": "2600", "int8 dynamic": "2000"}
    )
    assert products_told(fast | slow) == "bf16 2x fp32 at 1 of 2; int8 dynamic 2.5x fp32 at 2 of 2."
    assert products_table(fast).splitlines()[-1] == "| a | 64 | 5 | 2.5 | 2 | 2.00x | 2.50x |"


def test_the_break_even_is_where_no_longer_prefix_is_slower() -> None:
    ours = {8: "100", 16: "300", 64: "100", 512: "50"}
    found: Groups = {}
    for prefix, us in ours.items():
        rivals = {"ours": us, "separate sequences": "200", "a dense mask": "40"}
        found |= groups(attention_row(prefix), AGAINST_OTHERS, rivals)
    told = attention_told(found)
    assert "over separate sequences 4.00x (asked: 3x), faster from P / L = 1 on" in told
    assert "over a dense mask 0.80x (asked: 2x), never faster" in told


def test_attention_that_a_device_did_not_run_is_not_measured() -> None:
    times = {"ours": "2000", "separate sequences": "9000", "a dense mask": "4000"}
    table = attention_table(groups(attention_row(64), AGAINST_OTHERS, times), {}, "H200")
    (line,) = [line for line in table.splitlines() if line.startswith("| 1 | 64 |")]
    assert line == f"| 1 | 64 | 2 | 4.50x | {NOT_MEASURED} | 2.00x | {NOT_MEASURED} |"
