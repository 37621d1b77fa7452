"""The command `python -m kernels.readme`. Knows no table."""

from __future__ import annotations

from kernels.readme.pages import README, generated, measured_folders, page


def main() -> None:
    """Rewrites README.md and each device's page."""
    README.write_text(generated(README.read_text("utf-8")), encoding="utf-8")
    for folder in measured_folders():
        (folder / "README.md").write_text(page(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
