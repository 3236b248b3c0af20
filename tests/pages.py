"""The Markdown pages of the repository, and the code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted([README, *ROOT.glob("benchmarks/*.md"), *ROOT.glob("pure_batchops/**/*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCED.sub("", text(page))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks in a language, from top to bottom."""
    return [code for name, code in FENCED.findall(text(page)) if name == language]


def recipe(page: Path, heading: str) -> str:
    """The block of code below a heading."""
    return FENCED.search(text(page).split(f"# {heading}\n")[1])[2]
