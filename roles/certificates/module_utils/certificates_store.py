# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Where certificates are kept: a folder for each version, and one link that says which version is current.

    <store>/<name>/versions/<serial>/{certificate,key,chain}.pem    complete versions; none is changed once it is there
    <store>/<name>/current -> versions/<serial>                      replaced by one rename: all files change together
    <store>/<name>/next/                                             what is being issued
    <store>/<name>/transaction.json                                  there while a deployment is not finished

The paths that consumers read are links to current/<file>.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.certificates_model import Managed
from ansible.module_utils.certificates_x509 import Certificate, CertificateError, parse_chain, to_pem
from ansible.module_utils.runbook_state import read_json, replace_text, sync_folder, write_json

CERTIFICATE, KEY, CHAIN, REQUEST = "certificate.pem", "key.pem", "chain.pem", "request.pem"
PUBLIC_MODE = 0o644


class StoreError(Exception):
    """The store cannot do what is asked; the text says what is wrong and what to do."""


class Shelf:
    """The folder of one certificate in the store."""

    def __init__(self, store_dir: Path, managed: Managed, clock: Callable[[], float] = time.time) -> None:
        self.managed, self.clock = managed, clock
        self.folder = store_dir / managed.name
        self.versions = self.folder / "versions"
        self.next = self.folder / "next"
        self.link = self.folder / "current"
        self._transaction = self.folder / "transaction.json"
        self._notes = self.folder / "notes.json"

    # --- reading ------------------------------------------------------------------------------------------------

    def current(self) -> str | None:
        """Return the name of the current version, or None where nothing was ever deployed."""
        try:
            name = os.path.basename(os.readlink(self.link))
        except OSError:
            return None
        return name if (self.versions / name).is_dir() else None

    def chain(self, version: str) -> list[Certificate]:
        """Return leaf and intermediates of a version. Raise CertificateError where they cannot be read."""
        return read_chain(self.versions / version / CERTIFICATE)

    def folder_of(self, version: str) -> Path:
        """Return where the files of a version are: what was issued and is none yet waits in `next`."""
        folder = self.versions / version
        return folder if folder.is_dir() else self.next

    def staged(self) -> str | None:
        """Return the PEM of a certificate that was issued and is not a version yet."""
        try:
            return (self.next / CERTIFICATE).read_text(encoding="ascii", errors="replace") or None
        except OSError:
            return None

    def transaction(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = read_json(self._transaction, None)
        return found

    def notes(self) -> dict[str, Any]:
        """Return what was noted, by name: `told` (a consumer: the version and authority files it was told of), `rejected` (a version: why)
        and `revoke` (a version that its authority has to take back: why)."""
        found: dict[str, Any] = read_json(self._notes, {})
        return {"told": {}, "rejected": {}, "revoke": {}, **found}

    def linked(self) -> dict[str, str]:
        """Return what is wrong with the paths that consumers read: path to `missing`, `replaced` (a file of somebody else) or `elsewhere`."""
        wrong = {}
        for name, path in self.managed.paths.items():
            wanted = str(self.link / name)
            try:
                if os.readlink(path) != wanted:
                    wrong[path] = "elsewhere"
            except FileNotFoundError:
                wrong[path] = "missing"
            except OSError:
                wrong[path] = "replaced"
        return wrong

    # --- writing ------------------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Create the folders. Everyone may pass through them; what is secret has a mode of its own."""
        for folder in (self.folder.parent, self.folder, self.versions):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            folder.chmod(0o755)

    def open_next(self) -> Path:
        """Return an empty folder for what is to be issued. A certificate that was issued and never deployed is kept aside."""
        self.ensure()
        if self.staged():
            os.replace(self.next, self._free_name("unused"))
        elif self.next.exists():
            shutil.rmtree(self.next)
        self.next.mkdir(mode=0o700)
        return self.next

    def put_issued(self, leaf_pem: str, chain_pem: str) -> None:
        """Write an issued certificate beside its key; the file with the leaf last, as its being there says that all is there."""
        if chain_pem.strip():
            replace_text(self.next / CHAIN, chain_pem.strip() + "\n", mode=PUBLIC_MODE)
        else:
            replace_text(self.next / CHAIN, "", mode=PUBLIC_MODE)
        whole = leaf_pem.strip() + "\n" + (chain_pem.strip() + "\n" if chain_pem.strip() else "")
        replace_text(self.next / CERTIFICATE, whole, mode=PUBLIC_MODE)

    def promote(self) -> str:
        """Make a version of what was issued, with the owners and modes that its consumers need; return its name."""
        name = version_name(read_chain(self.next / CERTIFICATE)[0])
        (self.next / REQUEST).unlink(missing_ok=True)
        self.set_modes(self.next)
        sync_folder(self.next)
        target = self.versions / name
        if target.exists():
            raise StoreError(f"{target} is there already: the authority gave one serial twice; look at it, then move it away")
        os.replace(self.next, target)
        sync_folder(self.versions)
        return name

    def adopt(self) -> str | None:
        """Keep the files that consumers read now as a version of their own; return its name, None where there are none.

        They are copied, so that nothing changes for anybody. Files that are no certificate with its key are kept too.
        """
        found = {name: path for name, path in self.managed.paths.items() if os.path.isfile(path)}
        if not found:
            return None
        self.ensure()
        try:
            name = version_name(read_chain(Path(self.managed.certificate_file))[0])
        except (CertificateError, OSError):
            name = f"broken-{int(self.clock())}"
        if (self.versions / name).exists():
            if all(same_content(path, self.versions / name / file) for file, path in found.items()):
                return name
            name = f"{name}-{int(self.clock())}"
        scratch = Path(tempfile.mkdtemp(prefix=".adopt-", dir=self.folder))
        for file, path in found.items():
            content = Path(path).read_bytes()
            with open(os.open(scratch / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
                handle.write(content)
                os.fsync(handle.fileno())
        if CHAIN not in found:
            with contextlib.suppress(CertificateError, OSError):
                intermediates = read_chain(scratch / CERTIFICATE)[1:]
                replace_text(scratch / CHAIN, "".join(to_pem(one.der) for one in intermediates), mode=PUBLIC_MODE)
        self.set_modes(scratch)
        os.replace(scratch, self.versions / name)
        sync_folder(self.versions)
        return name

    def set_modes(self, folder: Path) -> list[str]:
        """Give a version's files the owner and mode of the inventory; return the names of those that had others."""
        wrong = self.wrong_modes(folder)
        user, group = self.ids()
        for name in wrong:
            path = folder if name == "." else folder / name
            if os.geteuid() == 0:
                os.chown(path, user, group)
            os.chmod(path, self._mode(name))
        return wrong

    def wrong_modes(self, folder: Path) -> list[str]:
        """Return the files of a version whose owner or mode is not that of the inventory ("." is the folder itself)."""
        user, group = self.ids()
        wrong = []
        for name in (".", CERTIFICATE, KEY, CHAIN):
            try:
                seen = os.stat(folder if name == "." else folder / name)
            except FileNotFoundError:
                continue
            owned = os.geteuid() != 0 or (seen.st_uid, seen.st_gid) == (user, group)
            if not owned or seen.st_mode & 0o777 != self._mode(name):
                wrong.append(name)
        return wrong

    def ids(self) -> tuple[int, int]:
        """Return owner and group as numbers. Raise StoreError where this host does not know them."""
        try:
            return pwd.getpwnam(self.managed.owner).pw_uid, grp.getgrnam(self.managed.group).gr_gid
        except KeyError as error:
            raise StoreError(f"{self.managed.name}: owner {self.managed.owner!r} or group {self.managed.group!r}: {error.args[0]}") from error

    def _mode(self, name: str) -> int:
        return {".": 0o755, KEY: self.managed.key_mode}.get(name, PUBLIC_MODE)

    def swap(self, version: str) -> None:
        """Make a version current: one rename, so that a consumer sees all of the old or all of the new."""
        if not (self.versions / version).is_dir():
            raise StoreError(f"{self.versions / version} is gone; it was to become current")
        replace_link(self.link, os.path.join("versions", version))

    def link_paths(self) -> None:
        """Have the paths of the inventory lead to the current version. What they hold has to be a version already (adopt)."""
        for name, path in self.managed.paths.items():
            wanted = str(self.link / name)
            if not (os.path.islink(path) and os.readlink(path) == wanted):
                Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                replace_link(Path(path), wanted)

    def begin(self, before: str | None, after: str) -> None:
        write_json(self._transaction, {"phase": "forward", "before": before, "after": after, "at": self.clock()})

    def turn_back(self, reason: str) -> None:
        """Note that the transaction goes back, so that a run after a crash does the same."""
        found = self.transaction() or {}
        write_json(self._transaction, {**found, "phase": "back", "reason": reason})

    def end(self) -> None:
        self._transaction.unlink(missing_ok=True)
        sync_folder(self.folder)

    def note(self, **changes: dict[str, Any]) -> None:
        """Add to the notes: `told`, `rejected` or `revoke`, each a dictionary."""
        notes = self.notes()
        write_json(self._notes, {**notes, **{key: {**notes.get(key, {}), **value} for key, value in changes.items()}})

    def prune(self, keep: int) -> list[str]:
        """Remove versions beyond the newest `keep`; never the current one, and none while a deployment is not finished."""
        if self.transaction() is not None or not self.versions.is_dir():
            return []
        by_age = sorted(self.versions.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        needed = {self.current(), *(version for version, why in self.notes()["revoke"].items() if why)}
        spare = [path for path in by_age if path.name not in needed][max(keep - 1, 1) :]
        for path in spare:
            shutil.rmtree(path)
        return [path.name for path in spare]

    def _free_name(self, why: str) -> Path:
        stem = f"{why}-{int(self.clock())}"
        taken = [path for path in [self.versions / stem, *(self.versions / f"{stem}-{n}" for n in range(1, 100))] if not path.exists()]
        return taken[0]


def read_chain(path: Path) -> list[Certificate]:
    """Return the certificates of a file, the leaf first. Raise CertificateError where there is none, OSError where it cannot be read."""
    return parse_chain(path.read_bytes())


def version_name(leaf: Certificate) -> str:
    """Return the name of a certificate's version: its serial, and a part of its fingerprint where serials are chosen at will."""
    return re.sub(r"[^0-9A-F]", "", leaf.serial_hex)[:40] + "-" + leaf.fingerprint[:8]


def replace_link(path: Path, target: str) -> None:
    """Have `path` be a link to `target`, by one rename over whatever file was there."""
    scratch = path.parent / f".{path.name}.{os.getpid()}.new"
    scratch.unlink(missing_ok=True)
    os.symlink(target, scratch)
    os.replace(scratch, path)
    sync_folder(path.parent)


def same_content(one: str, other: Path) -> bool:
    try:
        return Path(one).read_bytes() == other.read_bytes()
    except OSError:
        return False
