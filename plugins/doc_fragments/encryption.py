# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parameters by which a task gives the secrets of encrypted images."""

from __future__ import annotations


class ModuleDocFragment:
    """The secret of one image, or those of one and what it reads."""

    DOCUMENTATION = r"""
options:
  encryption:
    description:
      - The secret that opens the image, where it is encrypted with LUKS. It is proved by opening the image. A wrong one
        is an error, and nothing is changed. On an image in the clear it is not tried.
      - Secrets come to C(qemu-img) through memory that it inherits, neither by its command line nor in a file. A secret
        is UTF-8 text without a zero byte.
    type: dict
    suboptions:
      secret:
        description:
          - The secret. One of O(encryption.secret) and O(encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret, to its last byte, a line end included.
        type: path
notes:
  - Images that are encrypted with the old AES of qcow2 are refused, since nothing in them proves a secret.
"""

    CHAIN = r"""
options:
  encryption:
    description:
      - The secrets that open O(path), where it, or an image that it reads, is encrypted with LUKS. Each is proved by
        opening the image. A wrong one is an error, and nothing is changed. On images in the clear they are not tried.
      - Secrets come to C(qemu-img) through memory that it inherits, neither by its command line nor in a file. A secret
        is UTF-8 text without a zero byte.
    type: dict
    suboptions:
      secret:
        description:
          - A secret that opens O(path).
          - One of O(encryption.secret) and O(encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret, to its last byte, a line end included.
        type: path
      backing_secret:
        description:
          - The secret that opens the backing files of O(path), where they are encrypted and it is another one.
        type: str
      backing_secret_file:
        description:
          - A file on the target that holds it.
        type: path
notes:
  - Images that are encrypted with the old AES of qcow2 are refused, since nothing in them proves a secret.
"""
