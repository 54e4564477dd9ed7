"""Schedulers, models and tasks by name: one plug-in door, entry points, for ours and everybody else's.

Listing reads metadata alone and imports no plug-in. How a text says which scheduler, with which fields, is the matter
of `specs`. Knows no strategy and no model; imports no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_origin

from dllm_sdk.errors import ConfigError, RegistryError
from dllm_sdk.specs import parse_spec, read_spec, split

if TYPE_CHECKING:
    import torch

    from dllm_sdk.caching import Cache
    from dllm_sdk.model import Model
    from dllm_sdk.scheduler import Scheduler

Kind = Literal["scheduler", "model", "task", "cache"]
CACHES = {
    "none": "dllm_sdk.caching:NoCache",
    "prefix": "dllm_sdk.caching:PrefixCache",
    "dual": "dllm_sdk.caching:DualCache",
    "block": "dllm_sdk.caching:BlockCache",
}
"""Cache policies are part of the loop, so they are no plug-ins; the names are for command lines and files."""
_FILES = {
    "scheduler": "FILE.py:CLASS",
    "model": "LOADER:FOLDER, or FILE.py:NAME",
    "task": "FILE.jsonl, or FILE.py:NAME",
}


def available(kind: Kind) -> dict[str, EntryPoint]:
    """What is installed, by name, from metadata alone. A name that two distributions claim is an error when loaded."""
    return {point.name: point for point in sorted(entry_points(group=f"dllm_sdk.{kind}s"), key=lambda p: p.name)}


def clashes(kind: Kind) -> dict[str, str]:
    """The names that several distributions claim for different things, and what to do: a sentence each."""
    by_name: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"dllm_sdk.{kind}s"):
        by_name.setdefault(point.name, []).append(point)
    return {name: claimed for name, points in by_name.items() if (claimed := _claimed(kind, points))}


def _claimed(kind: Kind, points: list[EntryPoint]) -> str | None:
    """What is wrong with the entry points of one name, if there are several."""
    if len({point.value for point in points}) < 2:
        return None
    owners = " and ".join(sorted(point.dist.name if point.dist else point.value for point in points))
    return f"{kind} {points[0].name!r} is registered by {owners}: uninstall one, or give MODULE:CLASS"


def load(kind: Kind, name: str) -> Any:
    """The object behind a name, MODULE:OBJECT or FILE.py:OBJECT. Raises RegistryError, ConfigError."""
    _check_text(kind, name)
    found = _load(kind, name)
    if kind == "scheduler":
        from dllm_sdk.scheduler import Scheduler

        if not (isinstance(found, type) and issubclass(found, Scheduler)):
            raise RegistryError(f"scheduler {name!r} is {found!r}, which is not a subclass of dllm_sdk.Scheduler")
    elif kind == "task":
        check_task(name, found)
    elif not callable(found):
        raise RegistryError(f"model {name!r} is {found!r}: give a function f(*, device, dtype) that returns a model")
    return found


def check_task(name: object, task: Any) -> None:
    """Raise ConfigError unless an object has what is asked of a task."""
    needs = ("name", "gen_length", "prompts", "check")
    if isinstance(task, type) or not all(hasattr(task, need) for need in needs):
        cure = ": make one of this class" if isinstance(task, type) else ""
        raise ConfigError(
            f"task {name!r} must be an object with name, gen_length, prompts and check, got {task!r}{cure}"
        )


def _load(kind: Kind, name: str) -> Any:
    if ":" in name:
        return _load_path(kind, *name.rsplit(":", 1))
    if name.endswith(".py"):
        return _load_path(kind, name, "")
    points = [point for point in entry_points(group=f"dllm_sdk.{kind}s") if point.name == name]
    if not points:
        hint = f"; what is in a file is {_FILES[kind]}" if "/" in name or "." in name else ""
        raise RegistryError(_unknown(f"{kind} {name!r}", name, list(available(kind))) + hint)
    if claimed := _claimed(kind, points):
        raise RegistryError(claimed)
    try:
        return points[0].load()
    except Exception as error:
        raise RegistryError(_broken(f"the plug-in behind {kind} {name!r} ({points[0].value})", error)) from error


def module_of(kind: Kind, name: str) -> str:
    """The name of the module that a name leads to: where the object was made, whatever its class."""
    place = name if ":" in name else available(kind)[name].value
    return str(_load_path(kind, place.rpartition(":")[0], "__name__"))


def load_scheduler(spec: str) -> Scheduler[Any]:
    """A scheduler from a SPEC, see `dllm_sdk.specs`. Raises RegistryError for names, ConfigError for fields.

    >>> load_scheduler("adablock:threshold=0.8,block=16")                                      # doctest: +SKIP
    """
    from dllm_sdk.combining import combine

    _check_text("scheduler", spec)
    parts = split(spec, "+")
    if len(parts) > 2 or (len(parts) == 2 and not all(parts)):
        raise ConfigError(f"scheduler {spec!r}: PLAN+SELECT combines two schedulers, one on each side of a single +")
    if len(parts) == 2:
        return combine(plan=load_scheduler(parts[0]), select=load_scheduler(parts[1]))
    name, fields, _ = read_spec(spec)
    try:
        cls = load("scheduler", name)
    except RegistryError as error:
        if not spec.startswith("@"):
            raise
        missing = isinstance(error.__cause__, FileNotFoundError)
        hint = "; paths in a scheduler file start where you are" if missing else ""
        raise RegistryError(f"{spec}: {error}{hint}") from error
    scheduler: Scheduler[Any] = _make(cls, field_values(cls, fields))
    return scheduler


def load_model(name: str, *, device: str = "cpu", dtype: str | torch.dtype | None = None) -> Model:
    """A model from NAME, NAME:PATH, MODULE:FUNCTION or FILE.py:FUNCTION.

    `dtype` is a torch dtype or its name ("bfloat16"); None: the loader's choice. Raises RegistryError for names,
    ConfigError for a dtype, and what the loader raises for a bad checkpoint.
    """
    import torch

    _check_text("model", name)
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    # Those of one byte are for storage: torch cannot add in them.
    if dtype is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point and kind.itemsize > 1):
        hint = f"; for weights in eight bits load int8:{name}" if kind is torch.int8 else ""
        raise ConfigError(
            "dtype must be a floating-point type of torch to compute in, such as float32 or bfloat16, "
            f"got {dtype!r}{hint}"
        )
    head, _, path = name.partition(":")
    registered = head in available("model")
    loader = load("model", head if registered else name)
    given = (path,) if registered and path else ()
    try:
        inspect.signature(loader).bind(*given, device=device, dtype=kind)
    except (TypeError, ValueError) as error:
        first = f"{path!r} first, then " if given else ""
        raise RegistryError(
            f"model {name!r} must take {first}device= and dtype=, which are passed by name: {error}"
        ) from error
    model: Model = loader(*given, device=device, dtype=kind)
    return model


def load_cache(spec: str) -> Cache:
    """A cache policy from NAME[:field=value,...], NAME one of CACHES. Raises RegistryError, ConfigError.

    >>> load_cache("dual:refresh_every=8")                                                     # doctest: +SKIP
    """
    _check_text("cache", spec)
    name, fields = parse_spec("cache", spec)
    if name not in CACHES:
        raise RegistryError(_unknown(f"cache {name!r}", name, list(CACHES)))
    module, _, attribute = CACHES[name].partition(":")
    cache: Cache = _make(getattr(importlib.import_module(module), attribute), fields)
    return cache


def load_task(name: str) -> Any:
    """A task from NAME, MODULE:OBJECT or FILE.py:OBJECT. Raises RegistryError, ConfigError for what is no task."""
    return load("task", name)


def _check_text(kind: Kind, given: object) -> None:
    if not isinstance(given, str):
        raise ConfigError(f"a {kind} is loaded by a text that names it, got {given!r}")


def _load_path(kind: Kind, where: str, attribute: str) -> Any:
    if ".py:" in where and kind == "scheduler":
        raise RegistryError(f"scheduler '{where}:{attribute}': after the name come fields, as in {where}:field=value")
    if "/" in where and not where.endswith(".py"):
        raise RegistryError(f"{kind}: {where} is no Python file: give FILE.py:{attribute or 'NAME'}")
    try:
        module = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except FileNotFoundError as error:
        raise RegistryError(f"{kind}: there is no file {where}") from error
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(error.name + ".")):
            known = list(available(kind))
            if where in known and kind == "scheduler":
                hint = f"after a scheduler's name come fields, as in {where}:field=value"
                raise RegistryError(f"scheduler '{where}:{attribute}': {hint}") from error
            raise RegistryError(_unknown(f"module {where!r} for a {kind}", where, known)) from error
        raise RegistryError(_broken(where, error)) from error
    except Exception as error:
        raise RegistryError(_broken(where, error)) from error
    if not hasattr(module, attribute):
        names = [name for name in vars(module) if not name.startswith("_")]
        own = [name for name in names if getattr(vars(module)[name], "__module__", "") == module.__name__]
        if not attribute:
            found = ", ".join(own or names)
            raise RegistryError(f"{kind} {where!r} lacks a name, as in {where}:NAME; available: {found}")
        raise RegistryError(_unknown(f"{attribute!r} in {where}", attribute, own or names))
    return getattr(module, attribute)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(path)
    name = path.stem.replace(".", "_")
    known = importlib.util.find_spec(name)
    if known and Path(known.origin or "").resolve() != path.resolve():  # another's, who must still get it by that name
        name += "_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def field_values(cls: type[Scheduler[Any]], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as TOML writes them -> as a scheduler holds them: the SPEC of a part is loaded, a list becomes a tuple."""
    from dllm_sdk.scheduler import Scheduler, field_types

    hints = {name: get_origin(hint) or hint for name, hint in field_types(cls).items()}
    parts = {name for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Scheduler)}
    loaded = {name: load_scheduler(fields[name]) for name in fields.keys() & parts if isinstance(fields[name], str)}
    return {name: tuple(one) if isinstance(one, list) else one for name, one in {**fields, **loaded}.items()}


def _make(cls: Any, fields: dict[str, Any]) -> Any:
    known: list[str] = [f.name for f in dataclasses.fields(cls) if f.init] if dataclasses.is_dataclass(cls) else []
    for key in fields:
        if not known and not dataclasses.is_dataclass(cls):
            raise ConfigError(f"{cls.__name__} has no field {key!r}: it is no dataclass (@dataclass(frozen=True))")
        if key not in known:
            raise ConfigError(_unknown(f"field {key!r} of {cls.__name__}", key, known))
    for name, one in inspect.signature(cls).parameters.items() if known else ():
        if one.default is one.empty and not one.kind.name.startswith("VAR") and name not in fields:
            raise ConfigError(f"{cls.__name__} needs a value for its field {name!r}, as in :{name}=...")
    try:
        return cls(**fields)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:  # abstract methods left out, or a check of the user's own
        raise ConfigError(f"{cls.__name__}: {error}") from error


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return f"there is no {what};{hint} available: {', '.join(known) or 'none'}"


def _broken(what: str, error: BaseException) -> str:
    return f"{what} cannot be loaded: {type(error).__name__}: {error}"
