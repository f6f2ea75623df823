# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Every certificate and private key below some folders, found by what is in a file; nothing on the way stops the search."""

from __future__ import annotations

import errno
import fnmatch
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ansible.module_utils.certificates_keys import KeyError_, KeyInfo, glance_at_key, read_key
from ansible.module_utils.certificates_x509 import Certificate, CertificateError, is_pem, parse_chain
from ansible.module_utils.runbook_tools import ToolError, Tools

HEAD_BYTES = 64 << 10
BOM = b"\xef\xbb\xbf"
CERTIFICATE_MARK = re.compile(rb"(?:\A|\n|\r)(?:\xef\xbb\xbf)?[ \t]*-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[ \t]*\r?(?:\n|\Z)")
KEY_MARK = re.compile(rb"(?:\A|\n|\r)(?:\xef\xbb\xbf)?[ \t]*-----BEGIN (?:RSA |EC |DSA |ENCRYPTED )?PRIVATE KEY-----[ \t]*\r?(?:\n|\Z)")
CUT_MARK = re.compile(rb"(?:\A|\n)-----BEGIN (?:C|X|T|R|E|D|P)[A-Z0-9 ]*-{0,4}\Z")
# What has such a name and nothing in it that is known is a finding; a .key may be of a name server and anything else.
CERTIFICATE_NAME = re.compile(r"\.(pem|crt|cer|der)$", re.IGNORECASE)
NAME = re.compile(r"\.(pem|crt|cer|der|key)$", re.IGNORECASE)
PKCS12_NAME = re.compile(r"\.(p12|pfx)$", re.IGNORECASE)
# The system's own trusted roots, which its packages keep.
TRUST_FOLDERS = ("/usr/share/ca-certificates/", "/usr/share/pki/", "/etc/pki/ca-trust/", "/etc/ca-certificates/extracted/")
COMMENTS = re.compile(rb"(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]*(?:#[^\n]*)?")
# The kernel's own, whose files may have no end, and disks of others, which may never answer.
KERNEL = ("proc", "sysfs", "devpts", "devtmpfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "pstore", "bpf", "autofs", "mqueue",
          "hugetlbfs", "configfs", "fusectl", "efivarfs", "binfmt_misc", "nsfs", "rpc_pipefs", "selinuxfs")  # fmt: skip
REMOTE = ("nfs", "nfs4", "cifs", "smb3", "ceph", "afs")


@dataclass(frozen=True)
class Limits:
    """Where a search ends: files looked at, seconds; a file larger than `file_bytes` or with more than `certificates` of them
    is a trust bundle, which is noted and not read."""

    files: int = 50_000
    seconds: float = 20.0
    file_bytes: int = 1 << 20
    certificates: int = 20


@dataclass(frozen=True)
class FoundFile:
    """A file with a certificate or a private key.

    `kind`: certificate, key, both, bundle (trusted roots; `blocks` says how many, a folder may stand for all in it), broken.
    `real_path` is where the links lead, `links` other paths to it. `key` has only format and encrypted where keys were not read.
    `faults`: codes of certificates_x509 and certificates_keys, and key-readable (for all), key-writable (for its group),
    bom, symlink-loop, dangling, unreadable, pkcs12.
    """

    path: str
    real_path: str
    kind: str
    certificates: tuple[Certificate, ...] = ()
    key: KeyInfo | None = None
    mode: int = 0
    uid: int = -1
    gid: int = -1
    faults: tuple[str, ...] = ()
    blocks: int = 0
    links: tuple[str, ...] = ()
    detail: str = ""


class Found(list[FoundFile]):
    """The files found, by path. `looked_at` counts all that were opened; `stopped` says why the search ended early, or ""."""

    def __init__(self, files: Sequence[FoundFile] = (), looked_at: int = 0, stopped: str = "") -> None:
        super().__init__(files)
        self.looked_at = looked_at
        self.stopped = stopped


@dataclass
class _Search:
    ignored: Sequence[str]
    limits: Limits
    clock: Callable[[], float]
    read_keys: bool
    tools: Tools
    began: float = 0.0
    looked_at: int = 0
    stopped: str = ""
    folders: set[tuple[int, int]] = field(default_factory=set)
    files: dict[tuple[int, int], FoundFile | None] = field(default_factory=dict)
    rows: list[FoundFile] = field(default_factory=list)
    links: dict[str, list[str]] = field(default_factory=dict)
    roots: dict[str, set[str]] = field(default_factory=dict)
    closed: tuple[str, ...] = ()

    def walk(self, start: str) -> None:
        real = os.path.realpath(start)
        # Who names a path on another's disk wants it read.
        self.closed = tuple(place for place, kind in _mounts() if kind in KERNEL or not _below(real, place))
        stack = [start]
        while stack and not self.stopped:
            folder = stack.pop()
            for path, is_folder in self.entries(folder):
                if self.over():
                    return
                if any(fnmatch.fnmatchcase(path, pattern) for pattern in self.ignored):
                    continue
                if is_folder:
                    stack.append(path)
                else:
                    self.look(path)

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        try:
            there = os.stat(folder)
            real = os.path.realpath(folder)
            if (there.st_dev, there.st_ino) in self.folders or any(_below(real, place) for place in self.closed):
                return
            if os.path.islink(folder) and real.count("/") < 2:
                return  # a link to / or /usr leads away from what was to be searched
            self.folders.add((there.st_dev, there.st_ino))
            with os.scandir(folder) as found:
                # Of a folder with more names than are looked at, no more are put into order.
                names = sorted(itertools.islice(found, self.limits.files + 1), key=lambda entry: entry.name)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.broken(folder, _code(error), f"the folder cannot be read: {error.strerror}")
            return
        for entry in names:
            try:
                is_folder = entry.is_dir()
                wanted = is_folder or entry.is_file() or entry.is_symlink()
            except OSError:
                # A link that leads to itself has neither form; look() says so.
                is_folder, wanted = False, True
            if wanted:
                yield entry.path, is_folder

    def over(self) -> bool:
        if self.looked_at >= self.limits.files:
            self.stopped = f"the search ended after {self.looked_at} files: look below fewer paths, or raise the limit"
        elif self.clock() - self.began > self.limits.seconds:
            self.stopped = f"the search ended after {self.limits.seconds:g} s and {self.looked_at} files: look below fewer paths, or raise the limit"
        return bool(self.stopped)

    def look(self, path: str) -> None:
        self.looked_at += 1
        by_name = bool(NAME.search(path) or PKCS12_NAME.search(path))
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            # A socket cannot be opened (ENXIO), and what is gone by now was never there.
            if by_name and error.errno not in (errno.ENXIO, errno.ENODEV) and os.path.lexists(path):
                self.broken(path, _code(error), f"it cannot be read: {error.strerror}")
            return
        try:
            there = os.fstat(handle)
            if not stat.S_ISREG(there.st_mode):
                return
            self.file(path, handle, there, by_name)
        except OSError as error:
            if by_name:
                self.broken(path, _code(error), f"it cannot be read: {error.strerror}")
        finally:
            os.close(handle)

    def file(self, path: str, handle: int, there: os.stat_result, by_name: bool) -> None:
        identity = (there.st_dev, there.st_ino)
        if identity in self.files:
            known = self.files[identity]
            if known is not None:
                self.links.setdefault(known.path, []).append(path)
            return
        self.files[identity] = None
        head = os.read(handle, HEAD_BYTES)
        if not _suspicious(head, there.st_size, path, by_name):
            return
        real = os.path.realpath(path)
        if real.startswith(TRUST_FOLDERS):
            self.roots.setdefault(os.path.dirname(path), set()).add(real)
            self.files.pop(identity)  # each folder that leads to it has its own count
            return
        row = self.read(path, real, handle, there, head)
        if row is not None:
            self.files[identity] = row
            self.rows.append(row)

    def read(self, path: str, real: str, handle: int, there: os.stat_result, head: bytes) -> FoundFile | None:
        mode, uid, gid = stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid
        if there.st_size > self.limits.file_bytes:
            large = is_pem(head) and CERTIFICATE_MARK.search(head)
            return FoundFile(path, real, "bundle", (), None, mode, uid, gid, ("too-large",)) if large else None
        data = head
        while len(data) < there.st_size:
            more = os.read(handle, there.st_size - len(data))
            if not more:
                break
            data += more
        if PKCS12_NAME.search(path):
            whole = _is_whole_der(data)
            return FoundFile(path, real, "both" if whole else "broken", (), None, mode, uid, gid, ("pkcs12",) if whole else ("der",))
        count = data.count(b"-----BEGIN CERTIFICATE-----")
        if count > self.limits.certificates:
            return FoundFile(path, real, "bundle", (), None, mode, uid, gid, (), count)
        # OpenSSL 3 passes over it; programs in Go look for the dashes at the beginning of a line, and do not find the block.
        faults: list[str] = ["bom"] if BOM + b"-----BEGIN" in data else []
        details: list[str] = []
        certificates = self.certificates(path, data, faults, details)
        key = self.key(data, faults, details)
        if key is not None:
            faults += ["key-readable"] if mode & 0o007 else []
            faults += ["key-writable"] if mode & 0o020 else []
        kind = "both" if certificates and key else "certificate" if certificates else "key" if key else "broken"
        if kind == "broken" and not faults:
            return None
        unique = tuple(dict.fromkeys(faults))
        return FoundFile(path, real, kind, certificates, key, mode, uid, gid, unique, len(certificates), (), "; ".join(details))

    def certificates(self, path: str, data: bytes, faults: list[str], details: list[str]) -> tuple[Certificate, ...]:
        try:
            return tuple(parse_chain(data))
        except CertificateError as error:
            # A key alone is no fault, nor is a request or a public key.
            if error.code in ("key-instead", "other-instead"):
                return ()
            if error.code == "not-pem" and (not CERTIFICATE_NAME.search(path) or COMMENTS.fullmatch(data)):
                return ()
            faults.append(error.code)
            details.append(str(error))
            return ()

    def key(self, data: bytes, faults: list[str], details: list[str]) -> KeyInfo | None:
        if is_pem(data) and not KEY_MARK.search(data):
            return None
        try:
            seen = glance_at_key(data)
            if seen.encrypted:
                faults.append("encrypted")
            elif self.read_keys:
                return read_key(data, self.tools)
            return seen
        except KeyError_ as error:
            if error.code == "unsupported" and not KEY_MARK.search(data):
                return None
            if error.code != "certificate-instead":
                faults.append(error.code)
                details.append(str(error))
        except ToolError as error:
            details.append(str(error))
            return seen
        return None

    def broken(self, path: str, code: str, detail: str) -> None:
        mode, uid, gid = 0, -1, -1
        try:
            there = os.lstat(path)
            mode, uid, gid = stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid
        except OSError:
            pass
        self.rows.append(FoundFile(path, os.path.realpath(path), "broken", (), None, mode, uid, gid, (code,), 0, (), detail))


def scan(
    paths: Sequence[str],
    ignored_globs: Sequence[str] = (),
    limits: Limits | None = None,
    *,
    read_keys: bool = False,
    tools: Tools | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Return what is below these paths (folders or files; those that are not there are passed over).

    `ignored_globs` are shell patterns of whole paths, of files and of folders. With `read_keys` OpenSSL says what each key is.
    Links are followed, each file is in the result once. Other disks below are searched, /proc and the like are not.
    """
    search = _Search(ignored_globs, limits or Limits(), clock, read_keys, tools or Tools(), clock())
    for path in paths:
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in ignored_globs) or search.over():
            continue
        if os.path.isdir(path):
            search.walk(path)
        elif os.path.lexists(path):
            search.look(path)
    for folder, roots in search.roots.items():
        search.rows.append(FoundFile(folder, os.path.realpath(folder), "bundle", blocks=len(roots)))
    rows = [_with_links(row, search.links.get(row.path, [])) for row in search.rows]
    return Found(sorted(rows, key=lambda row: row.path), search.looked_at, search.stopped)


def _with_links(row: FoundFile, links: Sequence[str]) -> FoundFile:
    if not links:
        return row
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return FoundFile(**{**values, "links": tuple(links)})


def _suspicious(head: bytes, size: int, path: str, by_name: bool) -> bool:
    """Whether this may be a certificate or key, by the beginning of the file; most files are not, and cost no more."""
    if by_name and (not head.strip(BOM + b" \t\r\n\0") or CERTIFICATE_NAME.search(path) or PKCS12_NAME.search(path)):
        return True
    if b"-----BEGIN" in head and (CERTIFICATE_MARK.search(head) or KEY_MARK.search(head) or (by_name and CUT_MARK.search(head))):
        return True
    if head[:1] != b"\x30" or len(head) < 2:
        return False
    # DER says how long it is; with a key's or certificate's name it may be cut.
    length = head[1]
    if length in (0x81, 0x82, 0x83):
        start = 2 + length - 0x80
        length = int.from_bytes(head[2:start], "big") + start
    else:
        length += 2
    return length == size or (by_name and head[1] == 0x82 and length > size)


def _is_whole_der(data: bytes) -> bool:
    return data[:1] == b"\x30" and _suspicious(data, len(data), "", False)


def _code(error: OSError) -> str:
    return {errno.ELOOP: "symlink-loop", errno.ENOENT: "dangling"}.get(error.errno or 0, "unreadable")


def _below(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")


def _mounts() -> list[tuple[str, str]]:
    """Return where the kernel's own file systems and those of other hosts are mounted, and of which type they are."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.split(" ") for line in file]
    except OSError:
        return [("/proc", "proc"), ("/sys", "sysfs"), ("/dev", "devtmpfs")]
    found = [(row[1], row[2]) for row in rows if len(row) > 2 and (row[2] in KERNEL + REMOTE or row[2].startswith("fuse."))]
    return [(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), path), kind) for path, kind in found]
