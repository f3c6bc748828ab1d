"""Forks a process for each run of `toy`, so that none has to import JAX again.

Started by `processes.Zygote` before anything of JAX runs here. Commands are lines of JSON:
``{"start": {...}}``, see `child`, answers the id of the new process, ``{"wait": id}`` its exit
code, the negative number of the signal if one killed it.
"""

import json
import os
import resource
import signal
import sys
import traceback

import toy


def child(arguments, told, limit, signalled):
    """Becomes the run; nothing of the parent's streams is left."""
    output = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, number)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    if signalled is not None:
        name, step = signalled.split()
        toy.signalled = signal.Signals[name], int(step)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    sys.argv = ["toy.py", *arguments]
    code = 1
    try:
        toy.main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    command = json.loads(line)
    if "start" in command:
        pid = os.fork()
        if pid == 0:
            child(**command["start"])
        answer = pid
    else:
        _, status = os.waitpid(command["wait"], 0)
        answer = os.waitstatus_to_exitcode(status)
    print(json.dumps(answer), flush=True)
