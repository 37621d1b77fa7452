"""A built Bento answers from its own directory, without this repository. Knows no other server."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import ROOT, START_SECONDS, RunningServer, free_port, stop, wait_until

pytestmark = pytest.mark.long

LARGEST_BENTO = 30 << 20  # the ranker has 14 MB, the reasoner 8
READ_BY_SOURCES = {".cpp", ".hpp", ".json", ".lua"}
OURS = re.compile(r"(kernels|models|service)(\.\w+)+")
TOOLS = re.compile(r"/src/(kernels/(aot|bench|kept|readme|selfcheck/__main__)\b|.*/(gpu_)?bench)")
REQUEST = {
    "context": "Headline: Staff nurse. Skills: patient assessment.",
    "candidates": [{"id": "roofer", "text": "Roofer."}, {"id": "nurse", "text": "Nurse."}],
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No path into the repository: what the Bento needs, it must carry."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FAIRSLATE_", "PYTHON"))}
    home, state = tmp_path_factory.mktemp("bentoml"), tmp_path_factory.mktemp("state")
    return kept | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "FAIRSLATE_STATE_DIR": str(state),
    }


@pytest.fixture(scope="module")
def bento(environment: dict[str, str]) -> Path:
    """The directory of a fresh Bento."""
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    bentos = Path(environment["BENTOML_HOME"]) / "bentos" / "fairslate"
    return bentos / (bentos / "latest").read_text().strip()


@pytest.fixture(scope="module")
def server(bento: Path, environment: dict[str, str]) -> Iterator[RunningServer]:
    port, log = free_port(), bento.parent / "serve.log"
    command = [sys.executable, "-m", "bentoml", "serve", ".", "--host", "127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=bento,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    running = RunningServer(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until(lambda: process.poll() is not None or running.ready(), START_SECONDS, "readyz")
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        stop(process)


def test_it_ranks(server: RunningServer) -> None:
    with server.client() as client:
        answer = client.post("/v1/rank", json=REQUEST)
    assert answer.status_code == 200, answer.text
    assert {row["id"] for row in answer.json()["results"]} == {"roofer", "nurse"}


def test_it_carries_what_serves_and_nothing_else(bento: Path) -> None:
    carried = {path.name for path in (bento / "src").iterdir()}
    packages, papers = {"kernels", "models", "service"}, {"LICENSE", "NOTICE"}
    assert carried == {"bentofile.yaml", "requirements"} | packages | papers
    data = bento / "src" / "models" / "demo" / "onet_jobs"
    assert [path.name for path in data.iterdir()] == ["README.md"]  # the notice of their licence
    tools = [path for path in (bento / "src").rglob("*") if TOOLS.search(path.as_posix())]
    assert tools == []
    assert sum(path.stat().st_size for path in bento.rglob("*") if path.is_file()) < LARGEST_BENTO


def test_no_file_that_a_source_reads_stays_behind(bento: Path) -> None:
    beside = [
        source.relative_to(ROOT)
        for package in ("kernels", "models/native", "models/engines", "service")
        for source in (ROOT / package).rglob("*")
        if source.suffix in READ_BY_SOURCES and "results" not in source.parts
    ]
    assert {path.suffix for path in beside} == READ_BY_SOURCES
    assert not [path for path in beside if not (bento / "src" / path).exists()]


def named_modules(source: Path) -> Iterator[Path]:
    """Of ours, relative to the root: what a file imports, and what it starts by its name."""
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        names: list[object] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant):
            names = [node.value]
        for name in names:
            if isinstance(name, str) and OURS.fullmatch(name):
                path = Path(*name.split(".")).with_suffix(".py")
                if (ROOT / path).is_file():
                    yield path


def test_no_module_that_a_carried_one_names_stays_behind(bento: Path) -> None:
    carried = bento / "src"
    named = {path for source in carried.rglob("*.py") for path in named_modules(source)}
    assert Path("service/engine_trial.py") in named
    assert [path for path in named if not (carried / path).exists()] == []


def test_its_lock_is_ours(bento: Path) -> None:
    carried = (bento / "env" / "python" / "requirements.txt").read_text().splitlines()
    assert set(carried) == set((ROOT / "requirements" / "cpu.txt").read_text().splitlines())
