"""What pyproject.toml cannot say: the README as the page of a package index can show it.

There a link to a file of this repository leads nowhere. If BOOK_REPOSITORY_URL is set, as the
release does, such links become addresses in that repository, at BOOK_REPOSITORY_BRANCH. If not, the
words of a link stay, and a picture is left out.
"""

import os
import re
from pathlib import Path

from setuptools import setup

LINK = re.compile(r"\[([^][]*)\]\((?!\w+:|#)([^)]+)\)")
PICTURE = re.compile(r'<picture>.*?src="([^"]+)" alt="([^"]+)".*?</picture>\n\n', re.DOTALL)


def index_page(readme: str, repository: str | None, branch: str) -> str:
    """The README with links that work anywhere."""
    if not repository:
        return LINK.sub(r"\1", PICTURE.sub("", readme))
    readme = PICTURE.sub(rf"![\2]({repository}/raw/{branch}/\1)\n\n", readme)
    return LINK.sub(rf"[\1]({repository}/blob/{branch}/\2)", readme)


repository = os.environ.get("BOOK_REPOSITORY_URL")
branch = os.environ.get("BOOK_REPOSITORY_BRANCH", "main")
readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
setup(
    long_description=index_page(readme, repository, branch),
    long_description_content_type="text/markdown",
    project_urls={
        "Repository": repository,
        "Changelog": f"{repository}/blob/{branch}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    if repository
    else {},
)
