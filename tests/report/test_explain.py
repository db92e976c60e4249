import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tea.report.explain as explain_module
from tea.cli import app
from tea.estimators import expected_max_normal, ladder_advantages, tea_advantages
from tea.report.explain import explain, explanation_page, explanation_rows, typical_prompt

CODE = Path(explain_module.__file__).with_name("explain.js")
REWARDS = {
    "normal": np.random.default_rng(0).normal(size=16).tolist(),
    "few": [0.1, 2.0, -1.0],
    "ties": [0.0, 1.0, 1.0, 0.5, 0.5, 0.5, 2.0, 2.0],
    "constant": [1.5] * 6,
    "heavy": (np.random.default_rng(1).random(32) ** -0.7).tolist(),
}


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.filterwarnings("ignore")
def test_the_page_computes_what_the_library_does():
    script = f"""
        const {{ ESTIMATORS, expectedMaxNormal }} = require({json.dumps(str(CODE))});
        const sets = {json.dumps(REWARDS)}, result = {{ c: [2, 16, 512].map(expectedMaxNormal) }};
        for (const [name, rewards] of Object.entries(sets)) for (const n of [1, 4, 16, 128, 1024])
          for (const [estimator, f] of Object.entries(ESTIMATORS))
            result[[name, n, estimator]] = f([...rewards].sort((a, b) => a - b), {{ n, fraction: 0.25 }});
        console.log(JSON.stringify(result));
    """
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    np.testing.assert_allclose(found.pop("c"), [expected_max_normal(n) for n in (2, 16, 512)], atol=1e-8)
    assert len(found) == 5 * 5 * 9
    for key, advantages in found.items():
        name, n, estimator = key.split(",")
        expected = explain(REWARDS[name], int(n)).advantages[estimator]
        np.testing.assert_allclose(advantages, expected, rtol=1e-6, atol=1e-7, err_msg=key)


def test_what_is_explained_are_the_estimators():
    found = explain(REWARDS["normal"], 64, tail_fraction=0.5)
    rewards = torch.tensor(sorted(REWARDS["normal"]), dtype=torch.float64)[None]
    np.testing.assert_array_equal(found.rewards, rewards[0].numpy())
    np.testing.assert_array_equal(found.advantages["tea"], tea_advantages(rewards, 64, 0.5)[0].numpy())
    np.testing.assert_array_equal(found.advantages["ladder"], ladder_advantages(rewards, 64)[0].numpy())
    header, rows = explanation_rows(found)
    assert len(rows) == 16
    column = np.array([float(row[header.index("grpo")]) for row in rows])
    np.testing.assert_allclose((column**2).mean(), 1.0, atol=0.01)
    assert set(explain([0.0, 1.0, 0.0]).advantages) & {"tea", "ladder", "pass_at_n"} == {"pass_at_n"}


def test_the_page_stands_alone():
    page = explanation_page(explain(REWARDS["few"], 8, prompt="<script>alert(1)</script> & 'x'"))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    for outside in ("http:", "https:", "src=", "@import", "url("):
        assert outside not in page.replace("http://www.w3.org/2000/svg", "")


def test_command(tmp_path):
    rewards = np.random.default_rng(0).normal(size=(5, 20))
    rewards[2] = 1.0
    np.save(tmp_path / "r.npy", rewards)
    command = ["explain", str(tmp_path / "r.npy"), "--output-dir", str(tmp_path / "out"), "-m", "8"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["row"] == typical_prompt(rewards, 8) != 2
    assert found["rewards"] == sorted(rewards[found["row"], :8].tolist())
    assert (tmp_path / "out/explain.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "out/explain.html").is_file()
    refused = CliRunner().invoke(app, [*command, "--row", "9"])
    assert refused.exit_code == 2
    assert "--row must be from 0 to 4" in refused.stderr
