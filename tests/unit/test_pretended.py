"""What is asked of the pretended GPU that other tests train on: CUDA's own refusals."""

import pytest
import torch
import torch.nn.functional as F

from tests.unit.pretended import pretended_gpu


def test_the_devices_do_not_mix():
    with pretended_gpu():
        there, here = torch.ones(2, 2, device="cuda"), torch.ones(2, 2)
        for mix in (torch.add, torch.matmul, F.mse_loss, torch.Tensor.add_, torch.where, torch.cat):
            for pair in ((there, here), (here, there)):
                with pytest.raises(RuntimeError, match="one device"):
                    mix(*((here > 0, *pair) if mix is torch.where else [pair] if mix is torch.cat else pair))
        for each in (there.index_select, here.index_select):
            other = torch.arange(2, device="cpu" if each.__self__ is there else "cuda")
            with pytest.raises(RuntimeError, match="one device"):
                each(0, other)
        with pytest.raises(RuntimeError, match="one device"):
            here[torch.arange(2, device="cuda")]
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_what_cuda_allows():
    with pretended_gpu() as gpu:
        there = torch.arange(6.0, device="cuda").view(2, 3)
        assert (there + torch.tensor(1.0)).device == gpu, "a number meets any tensor"
        assert there[torch.tensor([1])].tolist() == [[3, 4, 5]], "so do indices"
        assert there.cpu().numpy().sum() == 15 == there.sum().item()
        here = torch.zeros(2, 3)
        assert here.copy_(there) is here and here.device.type == "cpu" and here[1, 2] == 5
        assert torch.zeros(3, device=gpu).copy_(torch.ones(3)).tolist() == [1, 1, 1]
        assert there.to("cpu", torch.float64).dtype == torch.float64 == torch.ones(1).to(there.double()).dtype
        assert torch.zeros_like(there).is_cuda and there.new_zeros(1).is_cuda and there.new_tensor([1]).is_cuda
        assert not torch.zeros(1).is_cuda
        assert F.one_hot(there[0].long(), 4).device == gpu, "what PyTorch makes on its way lies with its tensors"


def test_gradients_come_home():
    with pretended_gpu():
        here = torch.ones(3, requires_grad=True)
        (here.to("cuda") * 2).sum().backward()
        assert here.grad.tolist() == [2, 2, 2] and not here.grad.is_cuda
        module = torch.nn.Linear(2, 2)
        weight = module.weight
        assert module.to("cuda").weight is weight and weight.is_cuda, "as on a GPU, the parameter stays the same"


def test_nothing_is_left_outside():
    before = (torch.autocast, torch.cuda.is_available, torch.random.fork_rng)
    with pretended_gpu():
        assert torch.cuda.is_available()
    assert before == (torch.autocast, torch.cuda.is_available, torch.random.fork_rng)
