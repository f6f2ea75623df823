# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Proof that a policy rotates: first with stand-ins in a scratch folder, then at the live file and its writers."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.logs_archive import opened, suffix_of, unpacked
from ansible.module_utils.logs_files import LogFile, live_name, look_at, rotated_files, rotated_of
from ansible.module_utils.logs_holders import Holder, look
from ansible.module_utils.logs_logrotate import rotate
from ansible.module_utils.logs_survey import Service
from ansible.module_utils.runbook_result import finding
from ansible.module_utils.runbook_tools import ToolError, Tools

LINES = 20
STAND_INS = 20


@dataclass
class Seen:
    """What a rotation of live files showed: a `fault` says why it was none."""

    detail: str = ""
    fault: str = ""
    writers: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)


class Proof:
    """Proves one policy."""

    def __init__(self, service: Service, tools: Tools, wait_seconds: float) -> None:
        self.service, self.tools, self.wait_seconds = service, tools, wait_seconds
        self.holders: list[Holder] = service.writers

    # --- with stand-ins -------------------------------------------------------------------------------------------

    def in_scratch(self, folder: Path) -> None:
        """Rotate stand-ins with this very configuration, twice. Raise ToolError for what does not come out as it must."""
        place = folder / "logs"
        place.mkdir(mode=0o755)
        files = [place / name for name in stand_ins(self.service.live)]
        self._like_the_folder(place)
        config = folder / "proof.conf"
        config.write_text(self._stand_in_text([str(path) for path in files]), encoding="utf-8")
        config.chmod(0o644)
        for number in (1, 2):
            for path in files:
                self._write(path, number)
            self._logrotate(folder, config, force=True)
            for path in files:
                self._judge(path, number)
        before = sorted((p.name, p.stat().st_size) for p in place.iterdir())
        self._logrotate(folder, config, force=False)
        after = sorted((p.name, p.stat().st_size) for p in place.iterdir())
        if before != after:
            raise ToolError(f"a run with nothing due changed {sorted(set(before) ^ set(after))}")

    def _like_the_folder(self, place: Path) -> None:
        """Give the scratch folder owner and mode of the live one, on which depends who may make files in it."""
        folder = os.path.dirname((self.service.live or self.service.rotated)[0].path)
        found = os.stat(folder)
        if self.service.rendering.root:
            os.chown(place, found.st_uid, found.st_gid)
        place.chmod(found.st_mode & 0o7777)

    def _stand_in_text(self, paths: Sequence[str]) -> str:
        """Return the configuration with other files and without what would reach the live writers."""
        body = self.service.wanted.split("{", 1)[1]
        body = re.sub(r"^\s*(postrotate|firstaction)\n.*?^\s*endscript\n", "", body, flags=re.M | re.S)
        body = re.sub(r"^\s*sharedscripts\n", "", body, flags=re.M)
        return "\n".join(paths) + "\n{" + body

    def _write(self, path: Path, number: int) -> None:
        path.write_text("".join(f"{number} {line}\n" for line in range(LINES)), encoding="utf-8")
        rendering = self.service.rendering
        path.chmod(int(self.service.policy.mode, 8))
        if rendering.root and rendering.owner:
            shutil.chown(path, rendering.owner, rendering.group)

    def _logrotate(self, folder: Path, config: Path, force: bool) -> None:
        try:
            rotate(self.tools, str(config), str(folder / "state"), force)
        except ToolError as error:
            raise ToolError(f"a rotation of stand-ins failed: {error}") from error

    def _judge(self, path: Path, number: int) -> None:
        policy, rendering = self.service.policy, self.service.rendering
        rotated = rotated_of(str(path))
        if len(rotated) != number and policy.keep >= number:
            raise ToolError(f"after {number} rotations of a stand-in there are {len(rotated)} rotated files")
        lines = sum(_lines(file.path) for file in rotated)
        if lines != LINES * len(rotated):
            raise ToolError(f"{LINES * len(rotated)} lines went into rotated stand-ins, {lines} are in them")
        if number == 2 and rendering.compressor and policy.keep >= 2 and not rotated[0].compressed:
            raise ToolError("the older stand-in was not compressed")
        live = look_at(str(path))
        if not rendering.create:
            if live is not None:
                raise ToolError("there is a new file after a rotation of a stand-in, which its writer is to make")
            return
        if live is None or live.size:
            raise ToolError("there is no new, empty file after a rotation of a stand-in")
        if policy.reopen != "copytruncate" and live.mode != int(policy.mode, 8):
            raise ToolError(f"the new file has mode {live.mode:04o}, and the policy says {policy.mode}")

    # --- at the live files ----------------------------------------------------------------------------------------

    def of_live(self, before: Sequence[LogFile]) -> Seen:
        """Given the files as they were before a rotation, return whether nothing was lost and who writes to the new ones."""
        seen = Seen()
        beside: dict[str, list[LogFile]] = {}
        for each in rotated_files(self.service.policy.paths):
            beside.setdefault(live_name(each.path), []).append(each)
        for file in before:
            now = look_at(file.path)
            if self.service.policy.reopen == "copytruncate":
                if now is None or now.inode != file.inode or now.size >= max(file.size, 1):
                    seen.fault = f"{file.path} was not truncated"
                continue
            rotated = {f.inode: f for f in beside.get(file.path, [])}
            kept = rotated.get(file.inode)
            if kept is None and not any(f.compressed for f in rotated.values()):
                seen.fault = f"{file.path} was not rotated: no rotated file has its inode"
            elif kept is not None and kept.size < file.size:
                seen.fault = f"{kept.path} has {kept.size} bytes, the live file had {file.size}"
            elif now is None and self.service.policy.reopen != "watched":
                seen.fault = f"there is no new {file.path}"
        writing = {h.pid for h in self.service.writers if (h.device, h.inode) in {(f.device, f.inode) for f in before}}
        seen.writers = len(writing)
        left = self._left_behind(before) if writing and self.service.policy.reopen != "copytruncate" else []
        seen.detail = f"{len(before)} files, {len(writing)} writers, {len(writing) - len({h.pid for h in left})} of them at the new files"
        if left and self.service.policy.reopen != "watched":
            seen.fault = seen.fault or f"{_names(left)} still write to the rotated file"
        elif left:
            seen.findings.append(finding("writer-waits", "A writer has not looked for its new file yet", subject=self.service.policy.name,
                                         observed=_names(left), severity="info",
                                         remedy="It does with its next line, or the next run says so"))  # fmt: skip
        return seen

    def _left_behind(self, before: Sequence[LogFile]) -> list[Holder]:
        """Return who has not left the old files after the time that is given."""
        old = {(f.device, f.inode) for f in before}
        until = time.monotonic() + self.wait_seconds
        while True:
            left = [h for h in look(None).holders if h.writes and (h.device, h.inode) in old]
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.1)


def stand_ins(live: Sequence[LogFile]) -> list[str]:
    """Return names of stand-ins: those of live files as far as a configuration takes them as they are, and not thousands."""
    names = (os.path.basename(file.path) for file in live)
    plain = dict.fromkeys(name for name in names if re.fullmatch(r"[A-Za-z0-9_.+,@=-]+", name))
    return list(plain)[:STAND_INS] or ["stand-in.log"]


def _names(found: Sequence[Holder]) -> str:
    return ", ".join(sorted({f"{h.process} ({h.pid})" for h in found}))


def _lines(path: str) -> int:
    with opened(path) as file, unpacked(file, suffix_of(path)) as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
