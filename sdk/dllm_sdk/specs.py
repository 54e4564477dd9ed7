"""A SPEC, the text that says which scheduler is meant and with which fields. Loads nothing; imports no torch.

    SPEC = NAME | MODULE:CLASS | FILE.py:CLASS | @FILE.toml, then `:field=value,...`; PLAN_SPEC+SELECT_SPEC combines two

Values are TOML; a field that holds another scheduler takes its SPEC in quotes. A TOML file holds `scheduler = "NAME"`,
a table `[fields]` and, if `dllm-bench calibrate` wrote it, a table `[calibration]`: what it was found for.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dllm_sdk.errors import ConfigError


def read_spec(spec: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A SPEC of one scheduler in parts: its name, its fields, and what a @FILE.toml says it was calibrated for.

    Raises ConfigError.
    """
    name, fields = parse_spec("scheduler", spec)
    if not name.startswith("@"):
        return name, fields, {}
    path = Path(name[1:])
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no scheduler file {path}") from error
    except OSError as error:
        raise ConfigError(f"scheduler file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    scheduler, own, calibration = content.get("scheduler"), content.get("fields", {}), content.get("calibration", {})
    strange = content.keys() - {"scheduler", "fields", "calibration"}
    if strange:
        near = get_close_matches(min(strange), ("scheduler", "fields", "calibration"), 1)
        hint = f"did you mean {near[0]!r}?" if near else "fields of the scheduler stand under [fields]"
        raise ConfigError(f"{path} holds {min(strange)!r}, which no scheduler file has: {hint}")
    if not (isinstance(scheduler, str) and isinstance(own, dict) and isinstance(calibration, dict)):
        raise ConfigError(f'{path} must hold scheduler = "NAME" and, if any, the tables [fields] and [calibration]')
    return scheduler, {**own, **fields}, calibration


def parse_spec(kind: str, spec: str) -> tuple[str, dict[str, Any]]:
    """`HEAD:field=value,...` -> head (which may hold a colon: MODULE:CLASS) and fields. Raises ConfigError."""
    match = re.match(r"(?P<name>[^=]*?)(?::(?P<fields>\w[\w-]*=.*))?$", spec, re.DOTALL)
    if match is None or not match["name"].strip(":"):
        forms = "NAME, MODULE:CLASS, FILE.py:CLASS or @FILE.toml"
        raise ConfigError(f"{kind} {spec!r} must be {forms}, then :field=value,... if any")
    fields: dict[str, Any] = {}
    for item in split(match["fields"], ",") if match["fields"] else ():
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"{kind} {spec!r}: expected field=value, got {item!r}")
        name = key.strip().replace("-", "_")
        if name in fields:
            raise ConfigError(f"{kind} {spec!r} gives the field {name!r} twice: give it once")
        fields[name] = _value(f"{kind} {spec!r}", value)
    return match["name"], fields


def _value(what: str, text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        found = {}
    if found.keys() != {"value"}:  # of several lines each would be one
        allowed = "numbers as 0.5, texts and SPECs in quotes, lists as [1, 2]"
        raise ConfigError(f"{what}: {text!r} is not a TOML value ({allowed})")
    return found["value"]


def split(text: str, separator: str) -> list[str]:
    """Split outside quotes and brackets; a `+` before a digit belongs to a number."""
    parts, depth, quote, escaped = [""], 0, "", False
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = quote == '"' and char == "\\" and not escaped  # in single quotes TOML escapes nothing
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == separator and not depth and not (char == "+" and text[i + 1 : i + 2].isdigit()):
            parts.append("")
            continue
        parts[-1] += char
    return parts
