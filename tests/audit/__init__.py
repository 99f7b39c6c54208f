# SPDX-License-Identifier: MIT
"""`make audit`: is any word of an enrolled user's mail on the disk?  See tests.audit.__main__."""
