#!/usr/bin/env bash
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# build_collection.sh: the archive that Galaxy would get, in .cache/build, checked by Galaxy's own importer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=.cache/build

rm -rf "$build"
mkdir -p "$build"
tree=$(python tests/tools/collection_copy.py)
ansible-galaxy collection build "$tree" --output-path "$build"

export PATH="$PWD/.cache/venv-importer/bin:$PATH" GALAXY_IMPORTER_CONFIG="$PWD/tests/tools/galaxy-importer.cfg"
# In there, since the importer leaves its result where it is started.
(cd "$build" && python -m galaxy_importer.main kvmops-disk-*.tar.gz 2>&1 | tee importer.log)

# Known and meant: the one ignore line for each ansible-core, about the link by which a checkout finds itself.
known='^WARNING: Ignore files skip ansible-test sanity tests, found ignore-[0-9.]+txt with 1 statement\(s\)$'
if grep --extended-regexp '^(ERROR|WARNING)' "$build/importer.log" | grep --quiet --invert-match --extended-regexp "$known"; then
    echo "galaxy-importer complains, see above" >&2
    exit 1
fi
