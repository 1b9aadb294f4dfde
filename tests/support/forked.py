"""Run the program through the server of support/fork_server.py, as if this process were the program.

The arguments are the path of the server's socket, and those of the program. It passes its environment, folder and
standard streams to the server, forwards signals to the program, and ends as it ends.
"""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    run = {"argv": ["checkpointd", *sys.argv[2:]], "env": dict(os.environ), "cwd": os.getcwd()}  # noqa: PTH109  # pathlib takes 10 ms
    socket.send_fds(server, [json.dumps(run).encode()], [0, 1, 2])
    answers = server.makefile()
    program = int(answers.readline())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: os.kill(program, received))
    for stream in (0, 1, 2):
        os.close(stream)  # a reader sees the end when the program ends
    code = int(answers.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
