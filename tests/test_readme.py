"""What the README shows works as it stands there."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_readmes_snippets_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(snippet, names)
    assert names["nnx_loss"][2] < names["nnx_loss"][0]
    assert names["logits"].shape == (1, 32, 32, 2)
    assert names["x_0"].shape == (4, 8, 8, 3)
    assert (tmp_path / "folder" / "config.json").exists()


def test_the_readme_opens_with_the_demo_and_the_tests():
    first = re.findall(r"```\n(.*?)```", README, re.DOTALL)[0]
    assert re.search(r"^make demo\b.*^make test\b", first, re.DOTALL | re.MULTILINE)
