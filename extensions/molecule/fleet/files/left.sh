#!/bin/sh
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What a run has left of which libvirtd died: a copy that goes on, of which the definition says nothing, or clones of which
# not all run. It is noted for the end.
set -eux
case "$1" in
copy)
    copy=$(virsh dumpxml web --xpath //disk/mirror/source/@file | cut -d '"' -f 2)
    stat --format %i "$copy" >/var/lib/libvirt/web.copy
    virsh dumpxml --inactive web | grep -q web.raw
    ;;
clones)
    virsh -q list --all --name | grep desk | while read -r desk; do
        echo "$desk $(virsh domuuid "$desk")"
    done >/var/lib/libvirt/desks.before
    test -s /var/lib/libvirt/desks.before
    test "$(virsh -q list --name | grep -c desk)" -lt "$2"
    ;;
esac
