"""Say what of /root/expected.json the last run did not find, and what it found beside that."""

import json
import re

with open("/root/expected.json") as file:
    expected = json.load(file)
with open("/var/lib/runbooks/last/log-management.json") as file:
    findings = json.load(file)["findings"]
ids = {"mail address": "personal-data-in-log", "prompt in a statement": "prompts-in-log"}
found = {}
for each in findings:
    if each["id"] in ("secret-in-log", "personal-data-in-log", "prompts-in-log") and each["state"] == "open":
        path, _between, kind = each["subject"].rpartition(": ")
        found[path, kind] = each
for one in expected:
    # It may have been rotated since.
    match = next((key for key in found if key[0].startswith(one["path"]) and key[1] == one["kind"]), None)
    if match is None:
        print(f"not found: {one}")
        continue
    told = found.pop(match)
    if told["id"] != ids.get(one["kind"], "secret-in-log"):
        print(f"found as {told['id']}: {one}")
    if not re.match(rf"1 line, first line {one['line']}: ", told["observed"]):
        print(f"said {told['observed']}: {one}")
for key in found:
    print(f"found, and not seeded: {key}")
