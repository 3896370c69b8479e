"""What the page on serving shows works as it stands there."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segzoo

from .serving import expected, noise, png

GUIDE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def blocks(language, server):
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    return [block.replace("http://127.0.0.1:8000", server.address) for block in found]


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = png(noise(37, 53, 3), format="JPEG")
    Path("photo.jpg").write_bytes(content)
    return content


def test_python(server, tiny, photo, monkeypatch, capsys):
    monkeypatch.setattr(segzoo, "from_pretrained", lambda name: tiny)
    names = {}
    parts = blocks("python", server)
    assert len(parts) == 3
    for part in parts:
        exec(compile(part, "docs/serving.md", "exec"), names)
    assert np.array_equal(names["mask"], expected(tiny, photo))
    assert "(53, 37)" in capsys.readouterr().out
    assert names["app"].title == "Streets"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(server, tiny, photo):
    texts = [block.replace("\\\n", " ") for block in blocks("bash", server)]  # lines that go on
    lines = [line for text in texts for line in text.splitlines()]
    calls = [line for line in lines if line.startswith("curl")]
    assert len(calls) == 2
    for call in calls:
        subprocess.run([*shlex.split(call), "--silent", "--fail"], check=True, timeout=60)
    assert np.array_equal(np.array(Image.open("mask.png")), expected(tiny, photo))
    labels = [item["label"] for item in json.loads(Path("segments.json").read_text())]
    assert set(labels) <= set(tiny.class_names)
    assert labels
