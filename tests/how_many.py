"""How many examples of random input the fuzz tests try: a fifth, and with LIVE4D_LONG=1 (``make long``) all."""

import os

LONG = bool(os.environ.get("LIVE4D_LONG"))


def examples(all_of_them: int) -> int:
    return all_of_them if LONG else all_of_them // 5
