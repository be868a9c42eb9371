"""A virtual environment that holds the built wheel, what it asks for, and nothing else."""

import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def required(name: str, extra: str) -> dict[str, Distribution]:
    """The packages that a package requires with an extra, and all that these require, as they are installed here."""
    found: dict[str, Distribution] = {}
    left = [Requirement(f"{name}[{extra}]")]
    while left:
        asked = left.pop()
        if asked.name in found and not asked.extras:
            continue
        found[asked.name] = distribution(asked.name)
        for text in found[asked.name].requires or ():
            one = Requirement(text)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)):
                left.append(one)
    return {key: one for key, one in found.items() if key != name}


def wheel_alone(folder: Path, wheel: Path, extra: str) -> Path:
    """Make the environment. What the wheel requires is linked to what is installed here, so that nothing is fetched."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for one in required("toril", extra).values():
        tops = {file.parts[0] for file in one.files or () if file.parts[0] not in {"..", "__pycache__"}}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(one.locate_file(top))))
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-index", "--no-deps", str(wheel)], check=True)
    return folder
