"""Makes the roles' module_utils importable the way Ansible does, under ansible.module_utils."""

from __future__ import annotations

import sys
from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__ += [str(folder) for folder in sorted(ROOT.glob("roles/*/module_utils"))]
sys.path.insert(0, str(ROOT / "tests"))
