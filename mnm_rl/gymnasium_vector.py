"""What Gymnasium leaves open to vector environments: when they begin new episodes, and in which
form they give what."""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import vector as wrappers
from numpy.typing import NDArray

Wrapper = TypeVar("Wrapper", bound=type[VectorEnv[Any, Any, Any]])

_MODES = """
    AutoresetMode.SAME_STEP   the step that ends an episode returns the first observation of the
                              next one
    AutoresetMode.NEXT_STEP   the step after it does, whatever its action is
    AutoresetMode.DISABLED    only reset(options={"reset_mask": mask}) begins one"""

_BATCHES = (np.ndarray, torch.Tensor, list, tuple)

_INDIFFERENT: set[type[VectorEnv[Any, Any, Any]]] = {
    wrappers.ClipAction,
    wrappers.ClipReward,
    wrappers.DictInfoToList,
    wrappers.DtypeObservation,
    wrappers.FilterObservation,
    wrappers.FlattenObservation,
    wrappers.GrayscaleObservation,
    wrappers.RecordEpisodeStatistics,
    wrappers.RescaleAction,
    wrappers.RescaleObservation,
    wrappers.ReshapeObservation,
    wrappers.ResizeObservation,
}


def indifferent(wrapper: Wrapper) -> Wrapper:
    """Decorator of vector wrappers that give the same whether an episode begins by one more step or
    by mask: they keep nothing between steps, or know of masks."""
    _INDIFFERENT.add(wrapper)
    return wrapper


def autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """The mode that the metadata names: those of the outermost wrapper that has its own and names
    one, or of the environment.

    Raises:
        ValueError: if none does, or what is named is no ``gymnasium.vector.AutoresetMode``; it
            tells which line is missing.
    """
    base = env.unwrapped
    for layer in layers(env):
        if "autoreset_mode" in layer.metadata and (
            layer is base or layer.metadata is not base.metadata
        ):
            mode = layer.metadata["autoreset_mode"]
            if isinstance(layer, SyncVectorEnv | AsyncVectorEnv) and type(layer) in (
                SyncVectorEnv,
                AsyncVectorEnv,
            ):
                # before Gymnasium 1.2, environments of one class shared their metadata
                mode = layer.autoreset_mode
            if isinstance(mode, AutoresetMode):
                return mode
            found = f"must be a gymnasium.vector.AutoresetMode, got {mode!r}"
            break
    else:
        found = "is missing"
    raise ValueError(
        f"{env} does not say when it begins a new episode: metadata['autoreset_mode'] {found}. "
        "Add the line\n\n"
        "    env.metadata = {**env.metadata, 'autoreset_mode': AutoresetMode.SAME_STEP}  # of "
        "gymnasium.vector\n\n"
        f"with the mode that is true of it:{_MODES}"
    )


def takes_masks_unseen(env: VectorEnv[Any, Any, Any]) -> bool:
    """Whether a next-step environment can begin episodes by mask instead, with nothing else
    changed.

    Gymnasium's own environments can, where all wrappers are indifferent to it. A ``step`` or
    ``reset`` of one's own may count, average or record what passes, and has to see what it would
    see in Gymnasium's own loop.
    """
    *around, base = layers(env)
    if isinstance(base, AsyncVectorEnv):
        # Without shared memory, or with a worker of one's own, the next step would begin the
        # episode again.
        can = base.shared_memory and base.worker is None and not _does_its_own(base, AsyncVectorEnv)
    else:
        can = isinstance(base, SyncVectorEnv) and not _does_its_own(base, SyncVectorEnv)
    return can and not any(
        _does_its_own(wrapper, type(wrapper) if type(wrapper) in _INDIFFERENT else VectorWrapper)
        for wrapper in around
    )


def layers(env: VectorEnv[Any, Any, Any]) -> Iterator[VectorEnv[Any, Any, Any]]:
    """The wrappers, from the outside in, and what they wrap."""
    while isinstance(env, VectorWrapper):
        yield env
        env = env.env
    yield env


def _does_its_own(layer: VectorEnv[Any, Any, Any], known: type[VectorEnv[Any, Any, Any]]) -> bool:
    """Whether a layer steps or resets in another way than those of a class that is known."""
    methods = [verb + part for verb in ("reset", "step") for part in ("", "_async", "_wait")]
    return any(
        name in vars(layer) or getattr(type(layer), name, None) is not getattr(known, name, None)
        for name in methods
    )


def columns(
    env: VectorEnv[Any, Any, Any], rewards: Any, terminations: Any, truncations: Any
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """What a step gave, one number or flag per environment, ``[num_envs]``: from arrays, tensors or
    lists.

    Raises:
        ValueError: if there are more or fewer, they are no numbers, or flags are neither true nor
            false.
    """
    return (
        _column(env, "rewards", rewards, np.dtype(float)),
        _column(env, "terminations", terminations, np.dtype(bool)),
        _column(env, "truncations", truncations, np.dtype(bool)),
    )


def _column(
    env: VectorEnv[Any, Any, Any], what: str, values: Any, dtype: np.dtype[Any]
) -> NDArray[Any]:
    n = env.num_envs
    if isinstance(values, np.ndarray) and values.shape == (n,) and values.dtype == dtype:
        return values.copy()
    try:
        array = arrays(list(values) if isinstance(values, tuple) else values)
    except ValueError:  # a list of lists of other lengths
        raise ValueError(
            f"the {what} of {env} must be one per environment, [{n}], got {values!r}"
        ) from None
    if array.size != n:
        raise ValueError(
            f"the {what} of {env} must be one per environment, [{n}], got an array of shape "
            f"{list(array.shape)}"
        )
    array = np.array(array.ravel().tolist()) if array.dtype == object else array.reshape(n)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the {what} of {env} must be numbers, got {array.tolist()}")
    if dtype.kind == "b" and not np.isin(array, (0, 1)).all():
        raise ValueError(f"the {what} of {env} must be true or false, got {array.tolist()}")
    return array.astype(dtype)


def arrays(values: Any) -> Any:
    """Observations or the like as NumPy arrays, copied: environments may use theirs again."""
    if isinstance(values, np.ndarray):
        return np.array(values)
    if isinstance(values, Mapping):
        return {key: arrays(value) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(arrays(value) for value in values)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.array(values)


def finite(batch: Any, rows: list[int]) -> Any:
    """A batch of :func:`arrays`, with zeros for what is not finite in the rows of these
    environments."""
    if isinstance(batch, Mapping):
        return {key: finite(value, rows) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(finite(value, rows) for value in batch)
    if batch.dtype.kind == "f":
        batch[rows] = np.where(np.isfinite(batch[rows]), batch[rows], 0)
    return batch


def at(batch: Any, i: int) -> Any:
    """What belongs to environment ``i`` in a batch of :func:`arrays`."""
    if isinstance(batch, Mapping):
        return {key: at(value, i) for key, value in batch.items()}
    return tuple(at(value, i) for value in batch) if isinstance(batch, tuple) else batch[i]


def split(infos: Any, n_envs: int) -> list[dict[Any, Any]]:
    """One info per environment, from Gymnasium's form or from a list of that many.

    In Gymnasium's form, ``infos[key]`` holds a value per environment, ``[n_envs, ...]``, and
    ``infos[f"_{key}"]``, if there is such a mask, tells which of them have one. What has no such
    length, a string or a number say, holds for them all.

    Raises:
        ValueError: if a list or an array with a mask has another length, or ``infos`` is neither a
            dict nor a list.
    """
    if infos is None or (type(infos) is dict and not infos):
        return [{} for _ in range(n_envs)]
    if isinstance(infos, list | tuple) and len(infos) == n_envs:
        return [dict(info or {}) for info in infos]
    if not isinstance(infos, Mapping):
        raise ValueError(
            f"infos must be a dict, or a list of one dict per environment ({n_envs}), got {infos!r}"
        )
    masks = {f"_{key}": _mask(infos.get(f"_{key}"), n_envs) for key in infos}
    separate: list[dict[Any, Any]] = [{} for _ in range(n_envs)]
    for key, values in infos.items():
        if masks.get(key) is not None:
            continue
        mask = masks[f"_{key}"]
        parts = _parts(values, n_envs)
        if parts is None:
            if mask is not None and isinstance(values, _BATCHES) and getattr(values, "ndim", 1) > 0:
                raise ValueError(
                    f"infos[{key!r}] has a mask, so it must hold one value per environment "
                    f"({n_envs}), got {values!r}"
                )
            parts = [copy(values) if isinstance(values, _BATCHES) else values] * n_envs
        for i in range(n_envs) if mask is None else np.flatnonzero(mask).tolist():
            separate[i][key] = parts[i]
    return separate


def _mask(values: Any, n_envs: int) -> NDArray[np.bool_] | None:
    if isinstance(values, torch.Tensor) or (
        isinstance(values, list | tuple)
        and all(isinstance(value, bool | np.bool_) for value in values)
    ):
        values = arrays(list(values) if isinstance(values, tuple) else values)
    is_mask = isinstance(values, np.ndarray) and values.dtype == bool and values.size == n_envs
    return values.reshape(n_envs) if is_mask else None


def _parts(values: Any, n_envs: int) -> Any:
    """A value per environment, or None if there is one for all."""
    if isinstance(values, Mapping):
        return split(values, n_envs)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, list | tuple):
        return values if len(values) == n_envs else None
    if not isinstance(values, np.ndarray) and not hasattr(values, "__array__"):
        return None
    values = np.array(values)
    return values if values.ndim > 0 and len(values) == n_envs else None
