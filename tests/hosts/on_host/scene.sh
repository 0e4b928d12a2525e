#!/usr/bin/env bash
# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Machines for a playbook, made anew: lines of a scene follow, and say which. Their guests need no system: QEMU opens the
# disks and holds them as it does those of others. What each disk has to hold is beside it in $reference.
set -euo pipefail

images=/var/lib/libvirt/images
reference=/srv/reference
folders=("$images" /srv/vm /srv/dest /srv/golden /srv/backup)

# machine NAME FORMAT IMAGE: a machine that is off, with one disk
machine() {
    virsh --quiet define /dev/stdin >/dev/null <<XML
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='$2'/><source file='$3'/><target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='pty'/>
  </devices>
</domain>
XML
}

# disk NAME FORMAT IMAGE: the machine with a disk of 64 MiB, of which some hold data
disk() {
    truncate -s 64M "$reference/$1.raw"
    dd if=/dev/urandom of="$reference/$1.raw" bs=1M count=8 seek=1 conv=notrunc status=none
    dd if=/dev/urandom of="$reference/$1.raw" bs=1M count=4 seek=40 conv=notrunc status=none
    qemu-img convert -f raw -O "$2" "$reference/$1.raw" "$3"
    machine "$@"
}

# overlay NAME BASE IMAGE: a machine whose disk is an overlay over that of the machine BASE
overlay() {
    local base
    base=$(virsh domblklist "$2" | awk '$1 == "vda" { print $2 }')
    cp --sparse=always "$reference/$2.raw" "$reference/$1.raw"
    qemu-img create -q -f qcow2 -F qcow2 -b "$base" "$3"
    machine "$1" qcow2 "$3"
}

for name in $(virsh list --all --name); do
    virsh --quiet destroy "$name" >/dev/null 2>&1 || true
    virsh --quiet undefine "$name" --snapshots-metadata --checkpoints-metadata >/dev/null
done
for folder in "${folders[@]}"; do
    find "$folder" -mindepth 1 -delete
done
rm -rf "$reference"
mkdir "$reference"
