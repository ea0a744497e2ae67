"""``python WORDS`` in a process that has imported torch, or more if asked: forked, since such imports take seconds."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# What the code of pages imports, by and by. Modules that are there already change no name of theirs.
OF_PAGES = ("matplotlib.pyplot", "pandas", "sklearn.datasets", "ncollapse.report", "ncollapse.studies", "ncollapse.targets")
# Reads the requests of `python`, each a line, and answers with the exit code. A fork inherits torch and the modules named:
# those are imported by a second server, forked from the first.
SERVER = """
# The first step of an optimizer imports torch._dynamo, which takes another.
import importlib, json, os, runpy, sys, torch, torch._dynamo

def act(words, folder, here, environment):
    os.chdir(here)
    os.environ.update(environment)
    sys.path.insert(0, here)
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, kind), os.O_WRONLY | os.O_CREAT), number)
    sys.argv = words
    if words[0] == "-c":
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, os.path.dirname(words[0]))
        runpy.run_path(words[0], run_name="__main__")

def code_of(request):
    child = os.fork()
    if child == 0:
        try:
            act(*request)
            code = 0
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
        sys.stdout.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def forked(names):
    (requests, asking), (answers, answering) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(asking)
        for name in names:
            importlib.import_module(name)
        serve(os.fdopen(requests), os.fdopen(answering, "w"))
        os._exit(0)
    return os.fdopen(asking, "w"), os.fdopen(answers)

def serve(requests, answers):
    others = {}
    for line in requests:
        *request, names = json.loads(line)
        if names:
            key = tuple(names)
            others[key] = others.get(key) or forked(names)
            print(json.dumps([*request, []]), file=others[key][0], flush=True)
            code = others[key][1].readline().strip()
        else:
            code = code_of(request)
        print(code, file=answers, flush=True)

serve(sys.stdin, sys.stdout)
"""


@cache
def server() -> subprocess.Popen[str]:
    """The process that forks; it ends when its pipe is closed."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)
    return process


def python(*words: str, here: Path | None = None, imported: tuple[str, ...] = (), **environment: str) -> str:
    """What ``python WORDS`` prints; its process has these modules imported besides torch, which saves time."""
    if not hasattr(os, "fork"):
        settings = {"cwd": here, "env": os.environ | environment}
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, **settings).stdout
    with tempfile.TemporaryDirectory() as folder:
        request = [words, folder, str(here or Path.cwd()), environment, imported]
        process = server()
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        printed, errors = (Path(folder, kind).read_text() for kind in ("out", "err"))
    assert code == 0, errors
    return printed
