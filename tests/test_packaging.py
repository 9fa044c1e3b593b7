"""The wheel: every folder is listed, every module is in it, and every module imports from it in a clean venv."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "train", "sweeps", "analysis")


def package_folders() -> list[Path]:
    return sorted(path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py"))


def test_every_package_is_listed_and_mapped() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    expected = {"sixnd." + ".".join(folder.parts): str(folder) for folder in package_folders()}
    assert sorted(setuptools["packages"]) == sorted(expected)
    assert setuptools["package-dir"] == expected


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "sixnd"
    tracked = [*ROOMS, "pyproject.toml", "README.md", "LICENSE"]
    source.mkdir()
    for name in tracked:  # a copy: building in place would leave build/ and egg-info behind
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


# Each imports its own tool at once; a sweep that asks for one that is not installed is refused before.
OF_EXTRAS = {f"sixnd.sweeps.trackers.{tool}" for tool in ("wandb", "mlflow", "tensorboard")}


def modules() -> list[str]:
    files = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted("sixnd." + ".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files)


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in (".py", ".toml", ".j2", ".cpp", ".h") or path.name == "py.typed":
                assert f"sixnd/{path.relative_to(ROOT)}" in held
    top = {name.split("/")[0] for name in held}
    assert {name for name in top if not name.endswith(".dist-info")} == {"sixnd"}


def test_every_module_imports_from_the_wheel_in_a_clean_venv(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    # The dependencies, without the editable install beside them: a path line does not run the .pth files over there.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = (
        "import importlib, sys\n"
        f"for name in {sorted(set(modules()) - OF_EXTRAS)!r}:\n"
        "    found = importlib.import_module(name).__file__\n"
        "    assert found.startswith(sys.prefix), f'{name} came from {found}'\n"
    )
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_imports_follow_the_arrows() -> None:
    """sweeps -> train -> models; sweeps -> analysis; analysis -> models."""
    allowed = {"models": set(), "train": {"models"}, "analysis": {"models"}, "sweeps": {"models", "train", "analysis"}}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            depth = len(path.relative_to(ROOT).parts)
            for line in path.read_text().splitlines():
                words = line.split()
                if (
                    words[:1] == ["from"]
                    and words[1].startswith("." * depth)
                    and not words[1].startswith("." * (depth + 1))
                ):
                    target = words[1][depth:].split(".")[0]
                    assert target in allowed[room] | {room}, f"{path.relative_to(ROOT)}: {line.strip()}"
