"""Devices that can't be used are said in one line before anything is trained."""

import pytest
import torch

from metaphase.core import devices, train
from metaphase.core.cell import ConfigError
from tests.conftest import DEVICES

needs_no_gpu = pytest.mark.skipif("cuda" in DEVICES, reason="there is a GPU")


@pytest.mark.parametrize("name", [None, "cpu", "cpu:0", torch.device("cpu")])
def test_a_cpu_is_always_there(name):
    if name is not None or "cuda" not in DEVICES:
        assert devices.training_device(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "gpu", "", "cuda:x", "cuda:-1"])
def test_what_is_no_device_of_ours_is_refused(name, capsys):
    assert train.main(["--device", name]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: device: ")
    assert error.count("\n") == 1
    assert name in error
    assert "allowed: cpu, cuda" in error


@pytest.mark.parametrize("name", [5, True, 0.0, ["cpu"]])
def test_what_is_no_name_is_no_device(name):
    with pytest.raises(ConfigError, match="is no device; allowed: cpu, cuda"):
        devices.training_device(name)


@needs_no_gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_isnt_there(name, capsys):
    assert train.main(["--device", name]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: device: {name} can't be used: ")
    assert error.count("\n") == 1


@needs_no_gpu
def test_what_pytorch_says_of_gpus_is_told(monkeypatch):
    """An old driver, fewer GPUs, a GPU for which PyTorch has no code; all of it pretended."""
    cuda = torch.cuda

    def old_driver():
        raise RuntimeError("The NVIDIA driver on your system is too old (found 11040).\nPlease")

    with monkeypatch.context() as patched:
        patched.setattr(cuda, "init", old_driver)
        with pytest.raises(ConfigError, match=r"^device: cuda can't be used: .* too old .*\)\.$"):
            devices.training_device("cuda")
    monkeypatch.setattr(cuda, "init", lambda: None)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"cuda:2 is no GPU .* there are 2, cuda:0 to cuda:1"):
        devices.training_device("cuda:2")

    def no_image(*size, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    monkeypatch.setattr(cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch, "ones", no_image)
    with pytest.raises(ConfigError, match=r"code for sm_75, sm_80, .* sm_70 \(Tesla V100\)"):
        devices.training_device("cuda:1")


def test_the_current_gpu_is_the_one_that_is_trained_on(monkeypatch):
    entered = []

    class Device:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            entered.append(self.device)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(torch.cuda, "device", Device)
    with devices.current(torch.device("cuda:1")):
        assert entered == [torch.device("cuda:1")]
    with devices.current(torch.device("cpu")):
        assert len(entered) == 1
