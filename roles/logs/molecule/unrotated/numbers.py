"""Writes numbered lines with Python's handler that watches its file, as an app would, until it is told to stop."""

import logging
import logging.handlers
import os
import time

handler = logging.handlers.WatchedFileHandler("/srv/big/big.log")
handler.setFormatter(logging.Formatter("%(message)s"))
log = logging.getLogger("numbers")
log.addHandler(handler)
log.setLevel(logging.INFO)
number = 0
while not os.path.exists("/srv/big/stop"):
    number += 1
    log.info("line %d", number)
    time.sleep(0.002)
with open("/srv/big/last", "w", encoding="ascii") as file:
    file.write(str(number))
