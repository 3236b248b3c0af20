"""Other tensors in the places of a module's own, as torch.func.functional_call puts them there, at a tenth of its cost."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

Slot = tuple[dict[str, Any], str, str, Tensor]
"""A place of a tensor in a module: the dict, the key in it, the full name of the tensor, and the tensor that stands there."""


def exchange(model: nn.Module) -> Callable[[Mapping[str, Tensor]], list[Slot] | None]:
    """How to put other tensors into the places of the model's own. Tied tensors are given once, by the first of their names.

    Returns:
        `put(tensors)`, which gives the places; None if the tensors are not exactly those of the model, which may have been
        rebuilt since. Then nothing is changed.
    """
    parts = [
        (module, dict(vars(module)["_modules"]), *(_names(prefix, vars(module)[kind]) for kind in ("_parameters", "_buffers")))
        for prefix, module in model.named_modules()
    ]

    def slots() -> list[Slot] | None:
        found = []
        for module, children, parameters, buffers in parts:
            own = vars(module)
            if own["_modules"] != children:
                return None
            for container, names in ((own["_parameters"], parameters), (own["_buffers"], buffers)):
                if len(container) != len(names) or not all(key in names for key in container):
                    return None
                found += [(container, key, names[key], value) for key, value in container.items() if value is not None]
        return found

    def put(tensors: Mapping[str, Tensor]) -> list[Slot] | None:
        found = slots()
        if found is None:
            return None
        new = {id(own): tensors[name] for _, _, name, own in found if name in tensors}
        if len(new) != len(tensors) or (len(new) < len(found) and not all(id(own) in new for *_, own in found)):
            return None
        for container, key, _, own in found:
            container[key] = new[id(own)]
        return found

    return put


def _names(prefix: str, container: dict[str, Any]) -> dict[str, str]:
    return {key: f"{prefix}.{key}" if prefix else key for key in container}
