"""Note the command lines of all processes of this host in /root/commands, and those that hold the secret in /root/leaks."""

import os
import time

with open("/run/secret", "rb") as file:
    secret = file.read()
seen = set()
with open("/root/commands", "wb", buffering=0) as commands, open("/root/leaks", "wb", buffering=0) as leaks:
    while True:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    line = file.read().replace(b"\0", b" ").strip()
            except OSError:
                continue
            if line and line not in seen:
                seen.add(line)
                (leaks if secret in line else commands).write(line.replace(b"\n", b" ")[:2000] + b"\n")
        time.sleep(0.005)
