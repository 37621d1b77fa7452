"""The backend is chosen per call, explicitly. Knows nothing of kernels' results."""

from __future__ import annotations

import pytest
import torch

from kernels.base import dispatch

ON_CPU = torch.empty(1)


def test_auto_is_torch_for_operands_on_the_cpu() -> None:
    assert dispatch.choose_backend("auto", ON_CPU) == "torch"


def test_a_named_backend_is_obeyed() -> None:
    assert dispatch.choose_backend("torch", ON_CPU) == "torch"
    assert dispatch.choose_backend("triton", ON_CPU) == "triton"


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'cuda'.*'auto', 'triton' or 'torch'"):
        dispatch.choose_backend("cuda", ON_CPU)


def test_without_triton_auto_still_works_and_triton_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "triton", None)
    assert dispatch.choose_backend("auto", ON_CPU) == "torch"
    with pytest.raises(dispatch.BackendUnavailableError, match="install it"):
        dispatch.choose_backend("triton", ON_CPU)


def test_triton_on_the_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "interpreting", lambda: False)
    with pytest.raises(dispatch.BackendUnavailableError, match=r"cpu.*TRITON_INTERPRET=1"):
        dispatch.choose_backend("triton", ON_CPU)
