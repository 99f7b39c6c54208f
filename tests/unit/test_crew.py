# SPDX-License-Identifier: MIT
"""Messages arrive at once, and the processes of a killed command end too."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import mailseal

WORK = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from mailseal.admin import crew
def job():
    yield {"pid": os.getpid()}
    time.sleep(100)
for message in crew.run(None, [job]):
    print(message["pid"], flush=True)
"""


def test_messages_come_at_once_and_a_killed_command_leaves_no_process() -> None:
    library = os.path.dirname(os.path.dirname(mailseal.__file__))
    with subprocess.Popen(
        [sys.executable, "-c", WORK, library], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        worker = os.pidfd_open(int(command.stdout.readline()))
        try:
            command.send_signal(signal.SIGKILL)
            ended, _, _ = select.select([worker], [], [], 60)
            assert ended == [worker]
        finally:
            if not select.select([worker], [], [], 0)[0]:
                signal.pidfd_send_signal(worker, signal.SIGKILL)
            os.close(worker)
