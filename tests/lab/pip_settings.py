# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's settings of pip, whatever they are, for a pip in another root."""

from __future__ import annotations

import os
from pathlib import Path

from lab.namespaces import Mount

FILES = ("/etc/pip.conf", "/etc/xdg/pip", "~/.config/pip", "~/.pip", "/etc/ssl/certs")
VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
ROOTS_HOME = "/root"


def pip_environment() -> dict[str, str]:
    """The variables that pip looks at."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.upper() in VARIABLES}


def pip_mounts() -> list[Mount]:
    """pip's configuration, and every local file and folder that it or the environment speaks of, bound read-only."""
    mounts = []
    for name in FILES:
        path = Path(name).expanduser()
        if path.exists():
            mounts.append(Mount.bind(path, name.replace("~", ROOTS_HOME), make_target=True, read_only=True))
    for named in sorted(_local_paths()):
        if not any(Path(named).is_relative_to(mount.target) for mount in mounts):
            mounts.append(Mount.bind(named, named, make_target=True, read_only=True))
    return mounts


def _local_paths() -> set[str]:
    """Folders with packages and certificates outside of the operating system's own."""
    texts = list(pip_environment().values())
    for name in FILES[:-1]:
        path = Path(name).expanduser()
        files = [path] if path.is_file() else sorted(path.glob("*.conf"))
        texts += [file.read_text(encoding="utf-8") for file in files]
    words = {word.removeprefix("file://").rstrip("/") for text in texts for word in text.split()}
    named = [Path(word) for word in words if word.startswith("/")]
    # A local index is a folder "simple" which links to files beside it.
    folders = [path.parent if path.name == "simple" else path for path in named]
    return {str(path) for path in folders if path.exists() and not path.is_symlink()}
