"""Markdown pages as programs: their blocks run in order, and what they print is held against what the page shows.

    python -m tests.pages docs/tutorials/*.md      writes what the blocks print today into the pages

* A block with `title="FILE"` becomes that file. Other python blocks run one after another in one namespace, bash blocks
  in a shell; the `dllm-bench` command runs in this process, since it takes seconds to start.
* A text block that follows one is what it prints; `...` stands for anything, as in doctest.
* A block that makes an environment is left out, and where a page installs itself this ends. `as_script` leaves nothing
  out: the page as its reader follows it, for a fresh environment.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from click.testing import CliRunner

from dllm_bench.cli import cli

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?', re.DOTALL | re.MULTILINE)
ENVIRONMENT, INSTALLS = "-m venv", "pip install"
NEXT = "---- next block ----"


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int  # of its first line of code
    language: str
    title: str | None  # the file that it is
    code: str
    shows: str | None  # what the page says that it prints
    span: tuple[int, int]  # where that stands in the page


def blocks(text: str) -> list[Block]:
    """Every block of a page."""
    found = [(text[: match.start()].count("\n") + 2, match) for match in BLOCK.finditer(text)]
    return [Block(line, *match.groups(), match.span(4)) for line, match in found]


class Wrong(AssertionError):
    """A block printed something else than its page shows, or failed."""


def check(page: Path, folder: Path) -> None:
    """Run a page in an empty folder. Raises Wrong, or what a python block raises."""
    for block, printed in walk(page, folder):
        if not agree(block, printed):
            raise Wrong(f"{page.name}, line {block.line} prints\n{printed}\nand the page shows\n{block.shows}")


def agree(block: Block, printed: str) -> bool:
    """Whether a block printed what its page shows, if it shows anything; the machine's threads do not matter."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    wanted, found = (re.sub(r"\b\d+ threads?\b", "2 threads", text or "") for text in (block.shows, printed))
    return block.shows is None or doctest.OutputChecker().check_output(wanted, found, flags)


def rewrite(page: Path, folder: Path) -> int:
    """Put what the blocks print into a page, where it shows something else; how many there were."""
    text = page.read_text(encoding="utf-8")
    wrong = [(block, printed) for block, printed in walk(page, folder) if not agree(block, printed)]
    for block, printed in reversed(wrong):
        start, end = block.span
        lines = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
        text = text[:start] + lines + text[end:]
    page.write_text(text, encoding="utf-8")
    return len(wrong)


def walk(page: Path, folder: Path) -> Iterator[tuple[Block, str]]:
    """Run the blocks in `folder`; each with what it printed."""
    module = ModuleType("page")
    sys.modules["page"] = module  # dataclasses look their module up
    with contextlib.chdir(folder), importing(folder):
        for block in blocks(page.read_text(encoding="utf-8")):
            if block.title is not None:
                (folder / block.title).write_text(block.code, encoding="utf-8")
            elif block.language == "python":
                yield block, run_python(block, page, module)
            elif block.language == "bash" and runs(block, page):
                if INSTALLS in block.code:
                    return
                yield block, run_bash(block, page)


def runs(block: Block, page: Path) -> bool:
    """A tutorial's commands all run, elsewhere those whose output is shown."""
    wanted = block.shows is not None or page.parent.name == "tutorials"
    return wanted and ENVIRONMENT not in block.code


@contextlib.contextmanager
def importing(folder: Path) -> Iterator[None]:
    """A folder's modules can be imported, and are forgotten afterwards."""
    sys.path.insert(0, str(folder))
    known = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def run_python(block: Block, page: Path, module: ModuleType) -> str:
    """What a python block prints; an error shows the page's own line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), vars(module))
    return printed.getvalue()


def run_bash(block: Block, page: Path) -> str:
    """What the commands of a bash block print; an error is what they print where the page shows one."""
    printed = ""
    for command in block.code.replace("\\\n", "").strip().splitlines():
        code, out, error = run_command(command)
        if code and not ("Error: " in (block.shows or "") or "FAILED" in (block.shows or "")):
            raise Wrong(f"{page.name}, line {block.line}: {command} exits with {code}\n{out}{error}")
        printed += out + error if code else out
    return printed


def run_command(command: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    words = shlex.split(command, comments=True)
    if words[:1] == ["dllm-bench"] and not {"|", ">", "&&"} & set(words):
        done = CliRunner().invoke(cli, words[1:])
        return done.exit_code, done.stdout, done.stderr
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    shell = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    return shell.returncode, shell.stdout, shell.stderr


def as_script(page: Path) -> str:
    """The page as one shell script that prints NEXT before each block. No block may be python without a file."""
    parts = ["set -eu"]
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.title is not None:
            parts.append(f"cat > '{block.title}' <<'END OF FILE'\n{block.code}END OF FILE")
        elif block.language == "bash":
            wanted_to_fail = "Error: " in (block.shows or "") or "FAILED" in (block.shows or "")
            code = f"{{\n{block.code}}} 2>&1 || true" if wanted_to_fail else block.code
            parts.append(f"echo '{NEXT}'\n{code}")
        elif block.language == "python":
            raise Wrong(f"{page.name}, line {block.line}: python that is in no file cannot be followed in a shell")
    return "\n".join(parts) + "\n"


def main(pages: Sequence[str]) -> None:
    """Rewrite pages."""
    from tempfile import TemporaryDirectory

    for page in pages:
        with TemporaryDirectory() as folder:
            print(f"{page}: {rewrite(Path(page).resolve(), Path(folder).resolve())} blocks rewritten")


if __name__ == "__main__":
    main(sys.argv[1:])
