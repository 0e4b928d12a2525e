#!/usr/bin/env bash
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# build_docs.sh: the collection's pages as HTML in .cache/docs/build/html, and packed beside that. A warning is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
site=.cache/docs
export HOME="$PWD/.cache/home" # antsibull-docs writes a log there

rm -rf "$site"
mkdir -p "$site" "$HOME"
antsibull-docs sphinx-init --use-current --squash-hierarchy --fail-on-error --dest-dir "$site" kvmops.disk >/dev/null

# References to Ansible's own pages are checked by lint-collection-docs; here they would need its site.
cat >>"$site/conf.py" <<'SETTINGS'
intersphinx_mapping = {}
suppress_warnings = ["ref.ref"]
SETTINGS

if ! "$site/build.sh" >"$site/log" 2>&1; then
    cat "$site/log" >&2
    exit 1
fi
packed="$site/kvmops-disk-$(sed -n 's/^version: //p' galaxy.yml)-docs.tar.gz"
tar --create --gzip --file "$packed" --directory "$site/build" html
echo "documentation: $site/build/html/index.html, packed: $packed"
