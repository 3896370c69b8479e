"""Put the documentation that was built into a site that has every version, each in a folder.

    python docs/versions.py SITE [--dev]

``docs/_build/html`` becomes ``SITE/0.2.0``, or ``SITE/dev`` for what is not released; the other
versions stay as they were built, but for their ``versions.json``, which lists all for the menu that
``static/versions.js`` adds to each page. ``SITE/index.html`` leads to the newest release.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

from segzoo import __version__

BUILT = Path(__file__).parent / "_build" / "html"
DEV = "dev"
#: In every version, so that its pages ask for nothing that may not be there; empty in one alone.
LIST = "versions.json"
#: Where readers without scripts are led, too.
FIRST = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>segzoo</title>
<meta http-equiv="refresh" content="0; url={version}/">
<link rel="canonical" href="{version}/">
<p><a href="{version}/">segzoo {version}</a></p>
</html>
"""


def versions(site: Path) -> list[str]:
    """The folders of the site that are versions: the newest release first, ``dev`` last."""
    found = [path.parent.name for path in site.glob("*/index.html")]
    releases = sorted((name for name in found if _is_version(name)), key=Version)
    return releases[::-1] + [DEV] * (DEV in found)


def add(built: Path, site: Path, name: str) -> list[str]:
    """Put a built site into the folder ``name``, instead of what was there; all versions."""
    if not (built / "index.html").is_file():
        raise FileNotFoundError(f"{built} has no index.html: run `make docs` first.")
    site.mkdir(parents=True, exist_ok=True)
    new = site / f".{name}.new"
    shutil.rmtree(new, ignore_errors=True)
    skip = shutil.ignore_patterns(".doctrees", ".buildinfo*")
    shutil.copytree(built, new, ignore=skip)
    shutil.rmtree(site / name, ignore_errors=True)
    new.rename(site / name)
    there = versions(site)
    for version in there:
        (site / version / LIST).write_text(json.dumps(there) + "\n")
    (site / "index.html").write_text(FIRST.format(version=_newest(there)))
    (site / ".nojekyll").touch()  # a host that would leave out folders named _static
    return there


def _newest(there: list[str]) -> str:
    """The newest release that is final; else whatever there is."""
    final = (name for name in there if name != DEV and not Version(name).is_prerelease)
    return next(final, there[0])


def _is_version(name: str) -> bool:
    try:
        Version(name)
    except InvalidVersion:
        return False
    return True


def main() -> None:
    """Parse, add, say what there is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site", type=Path, help="the folder that is published")
    parser.add_argument("--dev", action="store_true", help="as dev, not as a release")
    given = parser.parse_args()
    try:
        there = add(BUILT, given.site, DEV if given.dev else __version__)
    except OSError as error:
        sys.exit(str(error))
    print(f"{given.site}: {', '.join(there)}")


if __name__ == "__main__":
    main()
