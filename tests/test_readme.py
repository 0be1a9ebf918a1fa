"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.slow
def test_the_readmes_snippets_run_one_after_the_other():
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(snippet, names)
    assert names["x_0"].shape == (8, 32, 32, 3)


def test_the_readme_opens_with_the_demo_and_the_tests():
    first = re.findall(r"```\n(.*?)```", README, re.DOTALL)[0]
    assert re.search(r"^make demo\b.*^make test\b", first, re.DOTALL | re.MULTILINE)
