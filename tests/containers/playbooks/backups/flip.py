"""Turn one bit of each file named, and give it its times back, as a disk that rots does.

Not in the middle of a WAL file: a bit among its zeros, once packed, may mean the same as before.
"""

import os
import sys

for path in sys.argv[1:]:
    seen = os.stat(path)
    place = min(seen.st_size // 2, 100)
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    print(path)
