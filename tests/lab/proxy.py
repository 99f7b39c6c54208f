# SPDX-License-Identifier: MIT
"""A connection to a database that can be cut, like a network between hosts.

    python proxy.py LISTEN TARGET …     pairs of paths of unix sockets

If the process is stopped (SIGSTOP), it acts like a network that drops all packets.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys


def main(*paths: str) -> None:
    waiting = selectors.DefaultSelector()
    targets: dict[socket.socket, str] = {}
    for listen, target in zip(paths[::2], paths[1::2], strict=True):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(listen)
        os.chmod(listen, 0o777)
        listener.listen(64)
        waiting.register(listener, selectors.EVENT_READ)
        targets[listener] = target
    other: dict[socket.socket, socket.socket] = {}
    while True:
        for event, _ in waiting.select():
            sock = event.fileobj
            assert isinstance(sock, socket.socket)
            if sock in targets:
                client, _ = sock.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(targets[sock])
                except OSError:
                    client.close()
                    continue
                other[client], other[server] = server, client
                for end in (client, server):
                    waiting.register(end, selectors.EVENT_READ)
            elif sock in other:
                try:
                    data = sock.recv(65536)
                    if data:
                        other[sock].sendall(data)
                        continue
                except OSError:
                    pass
                for end in (sock, other.pop(sock)):
                    other.pop(end, None)
                    waiting.unregister(end)
                    end.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
