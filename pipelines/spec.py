"""What a compiled pipeline says: its parameters, its stages in order, and whether kfp.local can run it truthfully.

Read from the compiled YAML (KFP IR schema 2.1.0), so that what is checked is what runs. The rules of :func:`check` each
stand for something that kfp 2.17.0 does silently wrong on one machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from faceflow.components.common.errors import SettingsError

_CHANNEL = re.compile(r"inputs\.parameter_values\['([^']+)'\]")
_UNNAMED = "Output"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a pipeline.

    Attributes:
        name: Its name.
        kind: Its type in the IR: STRING, NUMBER_INTEGER, NUMBER_DOUBLE, BOOLEAN, LIST or STRUCT.
        default: Its default; None where it must be given.
        needed: Whether a run must give it.
    """

    name: str
    kind: str
    default: Any = None
    needed: bool = False


@dataclass(frozen=True)
class Stage:
    """One task that runs a container.

    Attributes:
        name: The task's name, unique within the pipeline and the name in kfp.local's log.
        title: The name to show.
        image: The container image.
        artifacts: Its output artifacts: name to schema title, for instance ``system.Dataset``.
        results: Names of its output parameters.
        over: The pipeline parameter whose entries it runs once each for; None outside a loop.
    """

    name: str
    title: str
    image: str
    artifacts: dict[str, str]
    results: tuple[str, ...]
    over: str | None = None


@dataclass(frozen=True)
class Pipeline:
    """A compiled pipeline.

    Attributes:
        name: Its name.
        parameters: Its parameters by name.
        stages: Its stages, producers before consumers.
        collected: Parameters that a loop runs over whose outputs are collected behind it.
        asked: Parameters that a condition reads.
        defects: What kfp.local would get wrong about it, a sentence each.
    """

    name: str
    parameters: dict[str, Parameter]
    stages: tuple[Stage, ...]
    collected: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    defects: tuple[str, ...] = ()

    def stage(self, name: str) -> Stage | None:
        """The stage of that name, if there is one."""
        return next((stage for stage in self.stages if stage.name == name), None)


@dataclass(frozen=True)
class _Origin:
    """Where a value inside the pipeline comes from: a pipeline parameter, a loop's item, or a task's output."""

    kind: str
    name: str
    key: str = ""


@dataclass
class _Reader:
    """Collects what the recursion over nested DAGs finds."""

    document: Mapping[str, Any]
    stages: list[Stage] = field(default_factory=list)
    collected: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    defects: list[str] = field(default_factory=list)

    def read(self, dag: Mapping[str, Any], known: Mapping[str, _Origin], over: str | None) -> None:
        tasks = dag["tasks"]
        loops: dict[str, str] = {}
        for name in _in_order(tasks):
            task = tasks[name]
            component = self.document["components"][task["componentRef"]["name"]]
            origins = {
                key: _origin(value, known) for key, value in task.get("inputs", {}).get("parameters", {}).items()
            }
            self._condition(name, task, origins)
            for artifact in task.get("inputs", {}).get("artifacts", {}).values():
                producer = artifact.get("taskOutputArtifact", {}).get("producerTask")
                if producer in loops:
                    self.collected.add(loops[producer])
            if "dag" in component:
                inner, inner_known = over, {key: value for key, value in origins.items() if value is not None}
                if "parameterIterator" in task:
                    inner = self._loop(name, task, origins)
                    inner_known[task["parameterIterator"]["itemInput"]] = _Origin("item", name)
                    if inner is not None:
                        loops[name] = inner
                self.read(component["dag"], inner_known, inner)
            else:
                self._stage(name, task, component, over)

    def _stage(self, name: str, task: Mapping[str, Any], component: Mapping[str, Any], over: str | None) -> None:
        executor = self.document["deploymentSpec"]["executors"][component["executorLabel"]]
        outputs = component.get("outputDefinitions", {})
        self.stages.append(
            Stage(
                name=task["componentRef"]["name"].removeprefix("comp-"),
                title=task.get("taskInfo", {}).get("name") or name,
                image=executor.get("container", {}).get("image", ""),
                artifacts={
                    each: given["artifactType"].get("schemaTitle", "")
                    for each, given in outputs.get("artifacts", {}).items()
                },
                results=tuple(outputs.get("parameters", {})),
                over=over,
            )
        )
        if task["componentRef"]["name"] != f"comp-{name}":
            self.defects.append(
                f"task '{name}' runs component '{task['componentRef']['name']}': kfp.local's log names the two "
                "differently, so its state cannot be followed. Give every task a component of its own."
            )

    def _condition(self, name: str, task: Mapping[str, Any], origins: Mapping[str, _Origin | None]) -> None:
        for channel in _CHANNEL.findall(task.get("triggerPolicy", {}).get("condition", "")):
            origin = origins.get(channel)
            if origin is not None and origin.kind == "parameter":
                self.asked.add(origin.name)
            elif origin is not None and origin.kind == "task" and origin.key != _UNNAMED:
                self.defects.append(
                    f"condition '{name}' reads output '{origin.key}' of task '{origin.name}': kfp.local takes a "
                    "condition on a named output for false. Return one unnamed value, or test a pipeline parameter."
                )

    def _loop(self, name: str, task: Mapping[str, Any], origins: Mapping[str, _Origin | None]) -> str | None:
        items = task["parameterIterator"]["items"].get("inputParameter", "")
        source = origins.get(items)
        for key, origin in origins.items():
            if origin is None or origin.kind != "task":
                continue
            if key == items:
                if origin.key != _UNNAMED:
                    self.defects.append(
                        f"loop '{name}' runs over output '{origin.key}' of task '{origin.name}': kfp.local cannot find "
                        "a named output there. Run over a pipeline parameter."
                    )
            else:
                self.defects.append(
                    f"loop '{name}' is given output '{origin.key}' of task '{origin.name}': kfp.local replaces it by "
                    "the loop's item. Pass a pipeline parameter or an artifact into the loop, or move the task into it."
                )
        return source.name if source is not None and source.kind == "parameter" else None


def _origin(value: Mapping[str, Any], known: Mapping[str, _Origin]) -> _Origin | None:
    if "taskOutputParameter" in value:
        output = value["taskOutputParameter"]
        return _Origin("task", output["producerTask"], output["outputParameterKey"])
    if "componentInputParameter" in value:
        return known.get(value["componentInputParameter"])
    return None


def _in_order(tasks: Mapping[str, Any]) -> Iterator[str]:
    """Task names, producers first: loops early, and those with a longer chain of consumers before the others."""
    consumers: dict[str, list[str]] = {name: [] for name in tasks}
    for name, task in tasks.items():
        for producer in task.get("dependentTasks", ()):
            consumers[producer].append(name)

    def chain(name: str) -> int:
        return max((chain(consumer) + 1 for consumer in consumers[name]), default=0)

    waiting = sorted(tasks, key=lambda name: ("parameterIterator" not in tasks[name], -chain(name), name))
    seen: set[str] = set()
    while waiting:
        ready = next(name for name in waiting if seen.issuperset(tasks[name].get("dependentTasks", ())))
        waiting.remove(ready)
        seen.add(ready)
        yield ready


def read(path: Path) -> Pipeline:
    """Read a compiled pipeline.

    Args:
        path: The YAML that kfp's compiler wrote.

    Raises:
        SettingsError: The file is not a compiled pipeline.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = next(iter(yaml.load_all(path.read_text(encoding="utf-8"), loader)))
        name, root = document["pipelineInfo"]["name"], document["root"]
    except (yaml.YAMLError, StopIteration, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path} is not a compiled pipeline ({error}): write it with `faceflow compile`."
        ) from error
    parameters = {
        each: Parameter(
            each, given["parameterType"], given.get("defaultValue"), needed=not given.get("isOptional", False)
        )
        for each, given in root.get("inputDefinitions", {}).get("parameters", {}).items()
    }
    reader = _Reader(document)
    reader.read(root["dag"], {each: _Origin("parameter", each) for each in parameters}, None)
    return Pipeline(
        name=name,
        parameters=parameters,
        stages=tuple(reader.stages),
        collected=frozenset(reader.collected),
        asked=frozenset(reader.asked),
        defects=tuple(reader.defects),
    )


def check(pipeline: Pipeline) -> None:
    """Refuse a pipeline that kfp.local would run wrongly without saying so.

    Raises:
        SettingsError: It has such a place.
    """
    if pipeline.defects:
        raise SettingsError(f"pipeline '{pipeline.name}' cannot run on one machine: " + " ".join(pipeline.defects))
