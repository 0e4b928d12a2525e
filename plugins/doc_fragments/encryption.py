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
      - The secret that opens the image, if it is encrypted with LUKS. The task proves the secret by opening the image.
        A wrong secret is an error, and nothing is changed. The secret is ignored for an unencrypted image.
      - Secrets reach C(qemu-img) through memory that it inherits, never on its command line or in a file. A secret is
        UTF-8 text without a zero byte.
    type: dict
    suboptions:
      secret:
        description:
          - The secret. One of O(encryption.secret) and O(encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret. Every byte counts, also a line end.
        type: path
notes:
  - Images that are encrypted with the old AES of qcow2 are refused, since they hold nothing that proves a secret.
"""

    CHAIN = r"""
options:
  encryption:
    description:
      - The secrets that open O(path), if it, or an image that it reads, is encrypted with LUKS. The task proves each
        secret by opening the image. A wrong secret is an error, and nothing is changed. The secrets are ignored for
        unencrypted images.
      - Secrets reach C(qemu-img) through memory that it inherits, never on its command line or in a file. A secret is
        UTF-8 text without a zero byte.
    type: dict
    suboptions:
      secret:
        description:
          - A secret that opens O(path).
          - One of O(encryption.secret) and O(encryption.secret_file) is required.
        type: str
      secret_file:
        description:
          - A file on the target that holds the secret. Every byte counts, also a line end.
        type: path
      backing_secret:
        description:
          - The secret that opens the backing files of O(path), if they are encrypted with another one.
        type: str
      backing_secret_file:
        description:
          - A file on the target that holds that secret.
        type: path
notes:
  - Images that are encrypted with the old AES of qcow2 are refused, since they hold nothing that proves a secret.
"""
