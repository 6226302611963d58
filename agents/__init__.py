"""The agents that are trained and compared: one file each, with its hyperparameters and where they
come from.

A file in this package that defines a subclass of :class:`Agent` adds an agent to ``AGENTS``, and so
to the command line.
"""

import pkgutil
from importlib import import_module

from agents.agent import Agent, Hyperparameters


def _agents() -> list[type[Agent]]:
    modules = [
        import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
    ]
    return [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Agent)
        and kind is not Agent
        and kind.__module__ == module.__name__
    ]


AGENTS: dict[str, type[Agent]] = {
    agent.name: agent
    for agent in sorted(
        _agents(),
        key=lambda agent: (
            not agent.name.startswith("mnm"),
            agent.name.endswith("-paper"),
            agent.name,
        ),
    )
}
"""All agents by name: the neural memories first, then what they are compared with."""

__all__ = ["AGENTS", "Agent", "Hyperparameters"]
