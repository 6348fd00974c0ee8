"""Leave out of the installed packages what nothing of ours imports or reads, and compile the rest: `trim.py SITE_PACKAGES`.

The largest are generated: the Kubernetes client's models and APIs (shared/kube/transport.py loads two of its modules alone) and botocore's
descriptions of four hundred services.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PACKAGES: Final = (
    "aiohappyeyeballs",
    "aiohttp",
    "aiohttp_retry",
    "aiosignal",
    "annotated_types",
    "attr",
    "attrs",
    "frozenlist",
    "multidict",
    "propcache",
    "pydantic",
    "pydantic_core",
    "setuptools",
    "_distutils_hack",
    "typing_inspection",
    "yarl",
)
"""What the Kubernetes client's generated half needs, and what builds packages: supervisor has no use for it from Python 3.8 on."""
PARTS: Final = (
    "kubernetes/aio",
    "kubernetes/client/api",
    "kubernetes/client/models",
    "kubernetes/dynamic",
    "kubernetes/stream",
    "kubernetes/watch",
    "kubernetes/informer",
    "kubernetes/leaderelection",
    "boto3/data",
    "boto3/examples",
    "supervisor/tests",
    "supervisor/ui",
)
SERVICES: Final = frozenset({"ec2", "sts", "cloudwatch", "logs", "sso", "sso-oidc", "signin"})
"""What boto3 is asked for, and what its credential chain may ask for."""


def main(argv: Sequence[str]) -> int:
    """Return 1 when a file does not compile."""
    site = Path(argv[0])
    for package in PACKAGES:
        for path in (site / package, *site.glob(f"{package}-*.dist-info")):
            shutil.rmtree(path, ignore_errors=True)
    (site / "distutils-precedence.pth").unlink(missing_ok=True)
    for part in PARTS:
        shutil.rmtree(site / part)  # a part that is not there any more is a reason to look again
    for service in (site / "botocore/data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    for folder in ("tests", "test"):
        for path in site.glob(f"*/{folder}"):
            shutil.rmtree(path)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # nobody edits an image: no stat of each source at start
    return 0 if compileall.compile_dir(site, quiet=1, invalidation_mode=mode, workers=0) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
