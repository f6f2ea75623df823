"""Code on managed hosts: the standard library of Python 3.9, and nothing hidden."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.repository import ROOT, name, tracked

MANAGED = sorted([*ROOT.glob("roles/*/library/*.py"), *ROOT.glob("roles/*/module_utils/*.py")])
OWN_UTILS = {path.stem for path in ROOT.glob("roles/*/module_utils/*.py")}
PYTHON = [path for path in tracked() if path.suffix == ".py"]
# The sandbox builds itself on the machine where Ansible runs, with the packages that are there.
CONTROLLER_MODULES = {"sandbox": {"cryptography", "yaml"}}
each_managed = pytest.mark.parametrize("path", MANAGED, ids=name)

# What came after Python 3.9, by the module it is imported from (or the names it is an attribute of).
NEWER_MODULES = {"tomllib", "asyncio.taskgroups"}
NEWER_NAMES = {
    "typing": {"TypeAlias", "ParamSpec", "Concatenate", "TypeGuard", "Self", "Never", "LiteralString", "Required", "NotRequired",
               "Unpack", "TypeVarTuple", "assert_never", "reveal_type", "override", "dataclass_transform"},
    "datetime": {"UTC"},
    "enum": {"StrEnum", "member", "verify"},
    "hashlib": {"file_digest"},
    "itertools": {"pairwise", "batched"},
    "contextlib": {"chdir", "aclosing"},
    "dataclasses": {"KW_ONLY"},
    "types": {"NoneType", "EllipsisType", "UnionType"},
    "inspect": {"get_annotations"},
    "operator": {"call"},
    "math": {"cbrt", "exp2", "sumprod"},
    "statistics": {"covariance", "correlation", "linear_regression"},
    "sys": {"stdlib_module_names", "orig_argv", "exception"},
    "time": set(),
}  # fmt: skip
NEWER_ATTRIBUTES = {
    "bit_count",
    "add_note",
    "hardlink_to",
    "file_digest",
    "pairwise",
    "batched",
    "stdlib_module_names",
    "UTC",
}
NEWER_BUILTINS = {"aiter", "anext", "ExceptionGroup", "BaseExceptionGroup", "EncodingWarning"}
NEWER_KEYWORDS = {
    "zip": {"strict"}, "dataclass": {"slots", "kw_only", "match_args", "weakref_slot"}, "Popen": {"process_group"},
    "run": {"process_group"}, "glob": {"root_dir"}, "rmtree": {"onexc"}, "bisect_left": {"key"}, "bisect_right": {"key"},
    "insort": {"key"}, "NamedTemporaryFile": {"delete_on_close"}, "TemporaryDirectory": {"delete"}, "mkdtemp": set(),
}  # fmt: skip


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path), feature_version=(3, 9))


@each_managed
def test_it_is_python_3_9(path: Path) -> None:
    tree = tree_of(path)
    assert any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.names[0].name == "annotations"
        for node in tree.body
    ), "from __future__ import annotations, so that 3.9 takes the annotations"


@each_managed
def test_it_imports_the_standard_library_and_module_utils_alone(path: Path) -> None:
    for module in imported(tree_of(path)):
        top = module.split(".")[0]
        if top == "ansible":
            rest = module.removeprefix("ansible.module_utils").removeprefix(".").split(".")[0]
            assert module.startswith("ansible.module_utils") and rest in OWN_UTILS | {"basic", ""}, module
        else:
            allowed = sys.stdlib_module_names | CONTROLLER_MODULES.get(path.parents[1].name, set())
            assert top in allowed and module not in NEWER_MODULES, module


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports: modules are packed one by one"
            yield node.module or ""


@each_managed
def test_it_uses_nothing_newer_than_python_3_9(path: Path) -> None:
    tree = tree_of(path)
    annotations = {id(inner) for outer in annotated(tree) for inner in ast.walk(outer)}
    assert list(newer(tree, annotations)) == []


def annotated(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all annotations: they are not evaluated, so they may be newer."""
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if found := getattr(node, field, None):
                yield found


def newer(tree: ast.AST, annotations: set[int]) -> Iterator[str]:
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in NEWER_NAMES.get(node.module or "", set()):
                    yield f"{line}: {node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr in NEWER_NAMES.get(owner, set()) | NEWER_ATTRIBUTES:
                yield f"{line}: .{node.attr}"
        elif isinstance(node, ast.Name) and node.id in NEWER_BUILTINS:
            yield f"{line}: {node.id}"
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for keyword in node.keywords:
                if keyword.arg in NEWER_KEYWORDS.get(called, set()):
                    yield f"{line}: {called}({keyword.arg}=)"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node) not in annotations:
            yield from [f"{line}: a union of types that is evaluated"] * any(map(is_type, (node.left, node.right)))


def is_type(node: ast.AST) -> bool:
    known = {"int", "str", "float", "bool", "bytes", "dict", "list", "tuple", "Path"}
    return (isinstance(node, ast.Constant) and node.value is None) or (isinstance(node, ast.Name) and node.id in known)


def test_newer_python_would_be_seen() -> None:
    samples = [
        "from datetime import UTC", "import itertools\nitertools.pairwise([])", "zip([], [], strict=True)",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass A: pass", "x = isinstance(1, int | None)", "(5).bit_count()",
        "Alias = str | None", "raise ExceptionGroup('', [])", "import subprocess\nsubprocess.Popen([], process_group=0)",
    ]  # fmt: skip
    for sample in samples:
        assert list(newer(ast.parse(sample), set())), sample
    fine = ast.parse("def f(x: int | None) -> str | None:\n    y: list[int] | None = {1} | {2}\n    return y")
    assert list(newer(fine, {id(inner) for outer in annotated(fine) for inner in ast.walk(outer)})) == []
    for sample in ("match 1:\n  case 1: pass", "try: pass\nexcept* ValueError: pass"):
        with pytest.raises(SyntaxError):
            ast.parse(sample, feature_version=(3, 9))


@pytest.mark.parametrize("path", [path for path in PYTHON if "tests" not in path.parts], ids=name)
def test_no_shell_is_started_behind_the_scenes(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert not any(k.arg == "shell" and getattr(k.value, "value", True) for k in node.keywords), node.lineno
            called = ast.unparse(node.func)
            assert called not in ("os.system", "os.popen", "subprocess.getoutput", "eval", "exec"), node.lineno


SWITCHED_OFF = re.compile(r"#\s*(?:ruff:\s*)?noqa\b(?P<rest>.*)")


def without_reason(line: str) -> bool:
    """Return whether a line switches a rule off and does not go on to say why, in words after the rule's name."""
    found = SWITCHED_OFF.search(line)
    if not found:
        return False
    rest = re.sub(r"^[:\[]?\s*(?:[A-Za-z]+\d*[\w\[\]-]*\]?(?:,\s*)?)", "", found["rest"], count=1)
    while more := re.match(r"[A-Z]+\d+(?:,\s*)?\]?", rest.lstrip(" ,")):
        rest = rest.lstrip(" ,")[more.end() :]
    return len(re.findall(r"[a-z0-9.]+", rest)) < 2


def test_reasons_are_told_from_rule_names() -> None:
    hash_ = "#"
    bare = [f"x  {hash_} noqa", f"x  {hash_} noqa: E402", f"x  {hash_} noqa: E402, F401",
            f"{hash_} ruff: noqa: E402", f"x  {hash_} noqa: E402 -"]  # fmt: skip
    told = [f"x  {hash_} noqa: E402  read only", f"x  {hash_} noqa: E402, F401 - after the path above", f"{hash_} ruff: noqa: E402  see above",
            f"- name: x  {hash_} noqa command-instead-of-module  the module cannot", "nothing of the kind"]  # fmt: skip
    assert [line for line in bare if not without_reason(line)] == []
    assert [line for line in told if without_reason(line)] == []


def test_a_rule_that_is_switched_off_has_its_reason() -> None:
    """A reason holds for the lines right below that switch a rule off too."""
    silent = []
    for path in tracked():
        if path.suffix not in (".py", ".yml", ".toml") or path == Path(__file__):
            continue
        told = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            bare = without_reason(line)
            if bare and not told:
                silent.append(f"{name(path)}:{number}")
            told = bool(SWITCHED_OFF.search(line)) and (told or not bare)
    assert silent == []
