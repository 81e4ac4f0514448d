"""`python -m monai.bundle` without its six seconds of imports: a process that has them forks one for each command.

A command gets a process, a folder, an environment and streams of its own, as if it had been typed; the process it is
forked from has only imported MONAI. Tests that kill a command, or start it by torchrun, start it as a user does.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

WARM = [sys.executable, "-m", "monai.bundle"]
_SERVER = """
import json, os, runpy, signal, sys
import monai.bundle

for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

signal.alarm(300)  # a command that hangs is ended
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["environment"])
for number, name, how in ((0, os.devnull, os.O_RDONLY), (1, asked["out"], os.O_WRONLY), (2, asked["err"], os.O_WRONLY)):
    os.dup2(os.open(name, how), number)
sys.argv = [monai.bundle.__path__[0] + "/__main__.py", *asked["words"]]
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


def warm_run(
    words: Sequence[str], cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m monai.bundle WORDS`."""
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        out.touch()
        err.touch()
        environment = dict(os.environ if env is None else env)
        asked = {"words": list(words), "cwd": str(cwd or Path.cwd()), "environment": environment}
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({**asked, "out": str(out), "err": str(err)}) + "\n")
        server.stdin.flush()
        status = server.stdout.readline()
        assert status, "the process that forks commands has died"
        return subprocess.CompletedProcess([*WARM, *words], int(status), out.read_text(), err.read_text())


@functools.cache
def _server() -> subprocess.Popen[str]:
    """One for each process of pytest; it ends with its input."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    atexit.register(server.communicate)
    return server
