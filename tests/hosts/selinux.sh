#!/bin/sh
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# selinux.sh TREE: labels the tree of a host, in a mount namespace of its own. The first boot would take minutes for that.
#
# The policy of Debian 12 lacks what libvirtd needs of systemd-machined and of mount namespaces, so that no domain starts
# under it. So libvirtd's own type is permissive, and machined has no file by which the bus could start it (libvirt fails
# where its unit is masked). QEMU's type, svirt_t, is confined. Without KVM it needs execmem, which a boolean gives to it.
set -eu

tree=$1
policy=/etc/selinux/default
mount -t proc proc "$tree/proc"
chroot "$tree" semanage permissive -N -S default -a virtd_t
chroot "$tree" semanage boolean -N -S default -m --on virt_use_execmem
rm -f "$tree/usr/share/dbus-1/system-services/org.freedesktop.machine1.service"
printf '/srv/(vm|dest|golden|backup)(/.*)?\tsystem_u:object_r:virt_image_t:s0\n' \
    >>"$tree$policy/contexts/files/file_contexts.local"
chroot "$tree" setfiles -F -e /proc -e /sys "$policy/contexts/files/file_contexts" /
