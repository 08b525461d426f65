"""GPUs that Ray counts and PyTorch can't use end a run in one line, and blame no cell."""

import subprocess
import sys

import pytest
import torch

from metaphase.sweeps.execution import gpus
from metaphase.sweeps.store.results import Results

PRESET = """
name: tiny
cell: {image_size: 4, num_classes: 5, sequence_length: 8, batch_size: 8, steps: 4, eval_every: 2}
grid: {num_tasks: [1, 8]}
"""
CODE = """
import sys
import ray
from metaphase.sweeps import run
ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, object_store_memory=10**8)
import os
os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
sys.exit(run.main(sys.argv[1:]))
"""
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@needs_no_gpu
def test_what_a_task_says_of_its_gpu():
    assert gpus._try_gpu().startswith("device: cuda can't be used: ")


@needs_no_gpu
@pytest.mark.slow
def test_a_gpu_that_only_ray_sees(tmp_path):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(PRESET)
    command = [sys.executable, "-c", CODE, str(preset), "--root", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "GPUs of the cluster: " in line
    assert "device: cuda can't be used: " in line
    assert "Traceback" not in done.stderr
    assert Results(str(tmp_path / "results"), "tiny").finished() == {}
