# SPDX-License-Identifier: MIT
"""`make audit`: searches a raw disk for words of mail.  See tests.audit.__main__."""
