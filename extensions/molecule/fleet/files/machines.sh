#!/bin/sh
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Gives a host three machines: web, which runs, and db, on raw disks; golden, on a qcow2 image, of which clones are made.
set -eu
images=/var/lib/libvirt/images
install --directory --mode 0711 $images/desks

define() { # NAME FORMAT BYTE: a machine whose disk begins with that byte, 4 MiB of it
    qemu-img create -q -f "$2" "$images/$1.$2" 64M
    qemu-io -f "$2" -c "write -P $3 0 4M" "$images/$1.$2" >/dev/null
    virsh -q define /dev/stdin <<XML
<domain type='qemu'>
  <name>$1</name><memory unit='MiB'>64</memory><os><type>hvm</type></os>
  <devices><disk type='file' device='disk'>
    <driver name='qemu' type='$2'/><source file='$images/$1.$2'/><target dev='vda'/>
  </disk><interface type='user'/></devices>
</domain>
XML
}

define web raw 40
define db raw 41
define golden qcow2 42
virsh -q start web
virsh domid web >/var/lib/libvirt/web.number # the number that it has as long as it runs
sha256sum "$images/golden.qcow2" >/var/lib/libvirt/golden.sum
