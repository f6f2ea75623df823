"""Loads nginx and PostgreSQL with numbered lines while both logs and the app's are rotated twenty times; prints what is missing."""

import glob
import http.client
import os
import re
import ssl
import subprocess
import sys
import threading
import time

ROTATIONS = 20
TAIL_BYTES = 64 << 20
done = threading.Event()
sent = {"nginx": 0, "postgresql": 0}
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.load_verify_locations("/etc/ssl/certs/tracker.crt")


def requests() -> None:
    """Send requests one after the other, each with its number."""
    number = 0
    connection = http.client.HTTPSConnection("127.0.0.1", context=context, timeout=20)
    while not done.is_set():
        number += 1
        try:
            connection.request("GET", f"/load/{number}")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
            number -= 1
            continue
        sent["nginx"] = number


def messages() -> None:
    """Have PostgreSQL log numbers, a hundred with each statement."""
    asked = subprocess.Popen(["runuser", "-u", "postgres", "--", "psql", "-Xq"], stdin=subprocess.PIPE, text=True)
    number = 0
    while not done.is_set():
        asked.stdin.write(f"DO $$ BEGIN FOR n IN {number + 1}..{number + 100} LOOP RAISE LOG 'load %', n; END LOOP; END $$;\n")
        asked.stdin.flush()
        number += 100
        time.sleep(0.02)
    asked.stdin.close()
    asked.wait()
    sent["postgresql"] = number


def rotate(policy: str) -> None:
    """Force one rotation; within the second of the last one its name is taken, and it is tried again."""
    until = time.monotonic() + 60
    while True:
        argv = ["logrotate", "-f", "-s", "/var/lib/logrotate/status", f"/etc/logrotate.d/llm-cost-tracker-{policy}"]
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
        if "already exists, skipping" not in ran.stderr:
            break
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    if ran.stderr:
        sys.exit(ran.stderr)


def text_of(path: str) -> str:
    """Return the text of a log; of the one with the hole, what comes after it."""
    read = ["zstd", "-dcq", path] if path.endswith(".zst") else ["cat", path]
    part = ["tail", "-c", str(TAIL_BYTES)] if path.startswith("/srv/big/") else ["cat"]
    with subprocess.Popen(read, stdout=subprocess.PIPE) as reader:
        ended = subprocess.run(part, stdin=reader.stdout, capture_output=True, check=True)
    if reader.returncode:
        sys.exit(f"{path} cannot be read")
    return ended.stdout.decode("utf-8", "replace")


def missing(pattern: str, shape: str, last: int) -> list[int]:
    """Return which numbers up to the last are in none of the files."""
    seen = {int(n) for path in glob.glob(pattern) for n in re.findall(shape, text_of(path))}
    return sorted(set(range(1, last + 1)) - seen)


workers = [threading.Thread(target=each) for each in (requests, messages)]
for worker in workers:
    worker.start()
for _ in range(ROTATIONS):
    for policy in ("nginx", "postgresql", "big"):
        rotate(policy)
done.set()
for worker in workers:
    worker.join()
open("/srv/big/stop", "w").close()
until = time.monotonic() + 30
while not os.path.exists("/srv/big/last"):
    if time.monotonic() > until:
        sys.exit("the writer does not stop")
    time.sleep(0.1)
with open("/srv/big/last", encoding="ascii") as file:
    sent["big"] = int(file.read())
time_limit = time.monotonic() + 20
while missing("/var/log/postgresql/collected.log*", r"load (\d+)\n", sent["postgresql"]) and time.monotonic() < time_limit:
    time.sleep(0.5)  # the collector writes a moment later
lost = {
    "nginx": missing("/var/log/nginx/access.log*", r"GET /load/(\d+) ", sent["nginx"]),
    "postgresql": missing("/var/log/postgresql/collected.log*", r"load (\d+)\n", sent["postgresql"]),
    "big": missing("/srv/big/big.log*", r"line (\d+)\n", sent["big"]),
}
rotated = {name: len(glob.glob(pattern)) for name, pattern in (
    ("nginx", "/var/log/nginx/access.log-*"), ("postgresql", "/var/log/postgresql/collected.log-*"), ("big", "/srv/big/big.log-*"))}
print(sent, rotated, {name: len(numbers) for name, numbers in lost.items()})
sys.exit(any(lost.values()) or min(sent.values()) < 100 or min(rotated.values()) < ROTATIONS)
