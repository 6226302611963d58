"""Training in several processes, on one machine or many: each has its share of the environments,
all take the same updates.

The processes are those of PyTorch's default process group (``torch.distributed``), which
``torchrun`` and :func:`join` make. Without one there is one process, and every function here gives
back what it is given.

Every process has as many environments as every other. So the gradient of the whole is the mean of
the processes' gradients, and so are the moments of returns and advantages; with these in common,
every process goes on with the same parameters.
"""

import atexit
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class LostProcessError(RuntimeError):
    """Another of the processes that share a training has ended before its time."""


def join(device: str) -> None:
    """Form the group that ``torchrun`` started this process for; nothing happens where it was
    started in another way.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``. Each process of a machine has a GPU of its own:
            ``"cuda"`` means that one.

    Raises:
        ValueError: if the machine has fewer GPUs than processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if local > gpus:
            raise ValueError(
                f"{local} processes need a GPU each, but this machine has {gpus}: torchrun "
                f"--nproc-per-node {gpus}"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    # Imported later, as optimizers do, it would keep the group as a default argument: the group's
    # threads would outlive the interpreter, and abort the process when they let go of a tensor.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group(backend)
    atexit.register(dist.destroy_process_group)


def is_joined() -> bool:
    """Whether there is a group of processes."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """How many processes share the training."""
    return dist.get_world_size() if is_joined() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if is_joined() else 0


def is_first() -> bool:
    """Whether this is the process that writes and shows progress."""
    return rank() == 0


def launcher() -> str:
    """The command that starts as many processes on this machine, before the name of a script."""
    return (
        f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']}"
        if "TORCHELASTIC_RUN_ID" in os.environ
        else "python"
    )


def share(total: int, what: str) -> int:
    """A process's share of something.

    Raises:
        ValueError: if the shares cannot be equal, as those of environments and minibatches must be.
    """
    size = world_size()
    if total % size:
        raise ValueError(f"{what} ({total}) cannot be shared equally by {size} processes")
    return total // size


def mean(tensor: Tensor) -> Tensor:
    """The mean over all processes of a tensor, of the same shape in each."""
    if not is_joined():
        return tensor
    total = tensor.detach().clone()
    _together(lambda: dist.all_reduce(total))
    return total / world_size()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over all processes, in one exchange."""
    if is_joined():
        means = torch.split(
            mean(torch.cat([tensor.flatten() for tensor in tensors])),
            [tensor.numel() for tensor in tensors],
        )
        for tensor, new in zip(tensors, means, strict=True):
            tensor.copy_(new.view_as(tensor))


def mean_and_std(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of a sample) of the numbers of all processes, scalars."""
    if not is_joined():
        return numbers.mean(), numbers.std()
    first, second = mean(torch.stack([numbers.double().mean(), numbers.double().square().mean()]))
    n = numbers.numel() * world_size()
    std = ((second - first.square()).clamp(min=0) * n / (n - 1)).sqrt()
    return first.to(numbers.dtype), std.to(numbers.dtype)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in one of the processes, for what all must do at the same time."""
    return bool(mean(torch.tensor(float(flag))) > 0)


def from_first(make: Callable[[], T]) -> T:
    """Do something in the first process alone, and have what it returns in all."""
    if not is_joined():
        return make()
    result: list[Any] = [make() if is_first() else None]
    _together(lambda: dist.broadcast_object_list(result))
    return result[0]  # type: ignore[no-any-return]


def begin_alike(module: nn.Module, **settings: Any) -> None:
    """Begin a training: give all processes the parameters and statistics of the first.

    Args:
        settings: numbers that must be the same in all processes.

    Raises:
        ValueError: if one is not.
    """
    if not is_joined():
        return
    first = from_first(lambda: settings)
    for name, value in settings.items():
        if value != first[name]:
            raise ValueError(
                f"process {rank()} begins with {name} {value}, and process 0 with {first[name]}: "
                "they must be the same"
            )
    for tensor in module.state_dict().values():
        _together(lambda tensor=tensor: dist.broadcast(tensor, 0))  # type: ignore[misc]


def _together(exchange: Callable[[], Any]) -> None:
    try:
        exchange()
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LostProcessError(
            f"process {rank()} of {world_size()} has lost another one, whose own message says why "
            f"({reason})"
        ) from error
