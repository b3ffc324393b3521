"""A GPU that is not there: tensors that say "cuda", are kept on the CPU, and refuse to meet tensors of the CPU.

With `pretended_gpu()` a whole training run goes the way it goes on a GPU: every `.to(device)`, every function that
makes a tensor on a device, the scaler, autocast, the generators' states. A tensor made on the CPU that meets one of the
GPU raises, as CUDA's kernels do. What it cannot show: those kernels themselves, their precision, speed and memory.
PyTorch's FakeTensorMode knows fake CUDA tensors too, but they have no values, which `nonzero` and `.any()` ask for, and
without a driver their backward pass raises.
"""

import time
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
ACROSS = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
PICKS = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")  # indices may lie on the CPU
ASKS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)  # the program waits for the GPU

asked: list[str] = []  # what it has waited for so far


class OnGpu(torch.Tensor):
    """A tensor that holds another, which is where the numbers are; autograd sees a tensor of the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, **like, device="cpu")

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"{self.held!r} on {GPU}"

    def __tensor_flatten__(self):  # by these two `Module.to` knows that it may exchange a parameter in place
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner, *_):
        return OnGpu(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        tensors = _tensors((args[:1] if func.name().split(".")[0] in PICKS else args, kwargs))
        if func not in ACROSS and any(tensor.ndim for tensor in tensors if not isinstance(tensor, cls)):
            raise RuntimeError(f"{func}: expected all tensors on one device, found {GPU} and cpu")
        if func in ASKS:
            asked.append(func.name())
        known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, cls)}
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs or {}))
        if func is torch.ops.aten.copy_.default:
            return args[0]
        return tree_map(lambda value: known[id(value)] if id(value) in known else _on_gpu(value), out)


class Move(torch.autograd.Function):
    """From one device to the other; the gradient goes back."""

    @staticmethod
    def forward(ctx, tensor):
        if isinstance(tensor, OnGpu):
            asked.append("to the CPU")
        return tensor.held.clone() if isinstance(tensor, OnGpu) else OnGpu(tensor.clone())

    @staticmethod
    def backward(ctx, gradient):
        return Move.apply(gradient)


class Made(TorchDispatchMode):
    """What PyTorch's own code makes on its way lies where the tensors do that it was given."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out if _tensors((args, kwargs)) else tree_map(_on_gpu, out)


class Devices(TorchFunctionMode):
    """What a program says of devices, before PyTorch hears of it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, first = dict(kwargs or {}), args[0] if args else None
        there = isinstance(first, OnGpu)
        if func in SAID:
            return SAID[func](there) if there or func != torch.Tensor.device.__get__ else func(*args)
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return _moved(func, first, args[1:], kwargs)
        if func is torch.Tensor.numpy and there:
            raise TypeError("can't convert a tensor on cuda:0 to numpy: use Tensor.cpu() first")
        if func is torch.Tensor.new_tensor and there:
            return OnGpu(first.held.new_tensor(*args[1:], **kwargs))
        if func is torch.Tensor.tolist:
            return func(_held(first))
        if not _is_device(kwargs.get("device")):
            with Made() if any(isinstance(tensor, OnGpu) for tensor in _tensors((args, kwargs))) else nullcontext():
                return func(*args, **kwargs)
        to_gpu = torch.device(kwargs.pop("device")).type == "cuda"
        if func is torch.as_tensor and isinstance(first, torch.Tensor):
            first = _moved(torch.Tensor.to, first, (GPU if to_gpu else "cpu",), {})
            return first.to(kwargs["dtype"]) if kwargs.get("dtype") else first
        out = func(*tree_map(_held, args), **kwargs, device="cpu")
        return tree_map(_on_gpu, out) if to_gpu else out


SAID = {
    torch.Tensor.device.__get__: lambda there: GPU,
    torch.Tensor.is_cuda.__get__: lambda there: there,
    torch.Tensor.is_cpu.__get__: lambda there: not there,
}


class Event:
    """`torch.cuda.Event` by the CPU's clock."""

    def __init__(self, **_):
        self.time = None

    def record(self):
        self.time = time.perf_counter()

    def elapsed_time(self, later) -> float:
        return 1e3 * (later.time - self.time)


CUDA = {
    "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0, "Event": Event,
    "get_device_capability": lambda device=None: (9, 0), "get_device_name": lambda device=None: "a pretended GPU",
    "set_device": lambda device: None, "synchronize": lambda device=None: None,
    "reset_peak_memory_stats": lambda device=None: None, "max_memory_allocated": lambda device=None: 2**30,
    "memory_allocated": lambda device=None: 2**20, "default_generators": (torch.Generator(),),
    "is_current_stream_capturing": lambda: False,  # older versions of PyTorch ask, also without a graph
}  # fmt: skip


@contextmanager
def pretended_gpu():
    """Inside, "cuda" is a device that works; autocast on it is the CPU's."""
    autocast, fork, group = torch.autocast, torch.random.fork_rng, torch._C._group_tensors_by_device_and_dtype

    def grouped(lists, *how):
        there = {"cpu": GPU} if isinstance(lists[0][0], OnGpu) else {}
        return {(there.get(device.type, device), kind): rest for (device, kind), rest in group(lists, *how).items()}

    asked.clear()
    elsewhere = (
        (torch, "autocast", lambda kind, *rest, **how: autocast("cpu", *rest, **how)),
        (torch.random, "fork_rng", lambda devices=(), **how: fork((), **how)),
        (torch._C, "_group_tensors_by_device_and_dtype", grouped),
        (torch.accelerator, "current_accelerator", lambda check_available=False: None),
        (torch._C, "_InferenceMode", lambda on: torch.set_grad_enabled(not on)),  # no views of wrappers in that mode
    )
    with ExitStack() as stack:
        for module, name, instead in (*((torch.cuda, *item) for item in CUDA.items()), *elsewhere):
            stack.enter_context(mock.patch.object(module, name, instead))
        stack.enter_context(Devices())
        yield GPU


def _moved(func, tensor, rest: tuple, kwargs: dict):
    """`tensor.to(…)` in two steps: where it lies, then what it is."""
    words = [
        *rest,
        kwargs.get("device"),
        kwargs.get("dtype"),
        {torch.Tensor.cpu: "cpu", torch.Tensor.cuda: GPU}.get(func),
    ]
    likes = [word for word in words if isinstance(word, torch.Tensor)]
    words += [part for like in likes for part in (like.dtype, GPU if isinstance(like, OnGpu) else "cpu")]
    to_gpu = [torch.device(word).type == "cuda" for word in words if _is_device(word)]
    copied = bool(to_gpu) and to_gpu[0] != isinstance(tensor, OnGpu)
    tensor = Move.apply(tensor) if copied else tensor
    kinds = [word for word in words if isinstance(word, torch.dtype)]
    how = {name: kwargs[name] for name in ("memory_format", "copy") if kwargs.get(name)}
    how.pop("copy" if copied else None, None)
    return torch.Tensor.to(tensor, kinds[0] if kinds else tensor.dtype, **how)


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _held(value):
    return value.held if isinstance(value, OnGpu) else value


def _on_gpu(value):
    return OnGpu(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnGpu) else value


def _is_device(word) -> bool:
    return isinstance(word, torch.device) or (isinstance(word, str) and word.split(":")[0] in ("cpu", "cuda"))
