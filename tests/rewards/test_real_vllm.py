"""The real vLLM against the model in process: needs a GPU, the extra vllm, and a reward model.

pytest tests/rewards/test_real_vllm.py -m gpu
"""

import os
import shutil
import socket
import subprocess

import numpy as np
import pytest
import torch

from tea.rewards import RewardModel, load_reward

MODEL = os.environ.get("TEA_TEST_REWARD_MODEL", "Skywork/Skywork-Reward-V2-Qwen3-0.6B")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or shutil.which("vllm") is None, reason="needs a GPU and vllm")
def test_real_vllm():
    prompts = [[{"role": "user", "content": f"What is {i} + {i}?"}] for i in range(16)]
    completions = [[{"role": "assistant", "content": f"It is {2 * i + i % 2}."}] for i in range(16)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ["vllm", "serve", MODEL, "--runner", "pooling", "--dtype", "float32", "--port", f"{port}"]
    )
    try:
        served = load_reward(f"vllm:http://127.0.0.1:{port},patience=900")(prompts=prompts, completions=completions)
    finally:
        server.terminate()
        server.wait(60)
    expected = RewardModel(MODEL, dtype="float32")(prompts, completions)
    np.testing.assert_allclose(served, expected, atol=1e-2)
