"""Starts an instance as its runtime does: with its listening sockets as descriptors 3 and 4, its
configuration on standard input. `python tenant_app.py PROGRAM SOCKET`"""
import os
import socket
import sys

for number, path in ((3, sys.argv[2]), (4, sys.argv[2] + ".control")):
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1024)
    os.dup2(listening.fileno(), number + 10)
for number in (3, 4):
    os.dup2(number + 10, number)
    os.set_inheritable(number, True)
os.closerange(5, 20)
os.execv(sys.argv[1], [sys.argv[1]])
