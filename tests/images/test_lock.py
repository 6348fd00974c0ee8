"""The locked packages of the images are those that are tested, and all that the project asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^([a-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def pinned(path: Path) -> dict[str, str]:
    return dict(PINNED.findall(path.read_text()))


def test_images_have_the_versions_that_are_tested() -> None:
    images, tested = pinned(ROOT / "images" / "requirements.lock"), pinned(ROOT / "requirements.lock")
    assert len(images) > 20
    assert {name: version for name, version in images.items() if tested.get(name) != version} == {}


def test_images_have_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=\[]", entry)[0].lower().replace("_", "-") for entry in project["dependencies"]}
    assert wanted - set(pinned(ROOT / "images" / "requirements.lock")) == set()
