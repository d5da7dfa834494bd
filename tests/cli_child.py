"""Runs command lines of ndt in one process of limited memory, one a line of its input; answers code, output and errors.

What is written to the two streams is caught below Python, where C libraries write, too.
"""

import json
import os
import resource
import sys
import tempfile
import traceback
import warnings

MEMORY = 6 << 30

QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # by Python's own default


def run(argv: list[str]) -> dict[str, object]:
    from ndt.cli import main

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            code = main(argv)
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in enumerate(kept, 1):
                os.dup2(old, number)
                os.close(old)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))

    return {"code": code, "out": texts[0], "err": texts[1]}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("always")  # in a process of its own, each would be seen once
    for category in QUIET:
        warnings.simplefilter("ignore", category)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
