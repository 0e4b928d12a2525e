#!/usr/bin/env bash
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# build_collection.sh: the archive that Galaxy would get, in .cache/build. It holds what a user needs and no more, is
# checked by Galaxy's own importer, installs, and names what an execution environment with it needs: that installs, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=.cache/build

rm -rf "$build"
mkdir -p "$build"
tree=$(python tests/tools/collection_copy.py)
ansible-galaxy collection build "$tree" --output-path "$build"
archive=$(echo "$PWD/$build"/kvmops-disk-*.tar.gz)

expected='^(CHANGELOG\.md|COPYING|FILES\.json|MANIFEST\.json|README(\.zh-CN)?\.md)$'
expected+='|^(changelogs|docs|meta|playbooks|plugins|roles)(/|$)|^tests(/sanity(/ignore-[0-9.]+\.txt)?)?/?$'
if tar --list --file "$archive" | grep --invert-match --extended-regexp "$expected" | sed 's/^/  /' | grep .; then
    echo "the archive holds what no user needs, see above" >&2
    exit 1
fi

export PATH="$PWD/.cache/venv-importer/bin:$PATH" GALAXY_IMPORTER_CONFIG="$PWD/tests/tools/galaxy-importer.cfg"
# In there, since the importer leaves its result where it is started.
(cd "$build" && python -m galaxy_importer.main kvmops-disk-*.tar.gz 2>&1 | tee importer.log)

# Known and meant: the one ignore line for each ansible-core, about the link by which a checkout finds itself.
known='^WARNING: Ignore files skip ansible-test sanity tests, found ignore-[0-9.]+txt with 1 statement\(s\)$'
if grep --extended-regexp '^(ERROR|WARNING)' "$build/importer.log" | grep --quiet --invert-match --extended-regexp "$known"; then
    echo "galaxy-importer complains, see above" >&2
    exit 1
fi

ansible-galaxy collection install --force "$archive" --collections-path "$build/installed" 2>&1 | grep --invert-match "is not part of the configured"
cat >"$build/environment.yml" <<DEFINITION
version: 3
dependencies:
  galaxy:
    collections:
      - name: $archive
        type: file
DEFINITION
ansible-builder create --file "$build/environment.yml" --context "$build/context"
ansible-builder introspect "$build/installed" --write-pip "$build/pip.txt" --write-bindep "$build/bindep.txt"
diff --ignore-all-space <(grep --invert-match '^#' meta/ee-bindep.txt) <(sed 's/ *#.*//' "$build/bindep.txt")
"${PYTHON:-/usr/bin/python3}" -m venv "$build/environment"
"$build/environment/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$build/pip.txt"
"$build/environment/bin/python" -c 'import libvirt, lxml.etree'
