"""python -m meshlab test [CHECK]... | up | load-test | enter COMMAND... | down"""

import signal
import sys

from . import lab, space


def main(arguments: list[str]) -> int:
    match arguments:
        case ["test", *names]:
            return space.run_inside(["inside-test", *names])
        case ["up"]:
            return space.run_inside(["inside-up"], keep=True)
        case ["enter", *command]:
            return space.enter(command)
        case ["load-test"]:
            return space.enter([sys.executable, "-m", "meshlab", "inside-load-test"])
        case ["down"]:
            space.leave()
            return 0
        case ["inside-test", *names]:
            space.be_first_process()
            lab.up()
            from .report import run_checks

            return run_checks(names)
        case ["inside-up"]:
            space.be_first_process()
            lab.up()
            lab.demo()
            signal.pause()
        case ["inside-load-test"]:
            from .checks.objectives import TABLE, load_test

            done = load_test(TABLE)
            print(done.stdout, done.stderr, sep="", end="")
            return done.returncode
        case ["targets"]:  # see prometheus.py
            from .prometheus import find_pods

            find_pods()
        case ["check", *names]:  # inside a lab that is up
            from .report import run_checks

            return run_checks(names)
    print(__doc__, file=sys.stderr)
    return 2


sys.exit(main(sys.argv[1:]))
