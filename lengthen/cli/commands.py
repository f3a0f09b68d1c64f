"""What each subcommand is called with, and what it calls.

Nothing heavy is imported before a command needs it.
"""

from lengthen.cli.evaluate import EVALUATE
from lengthen.cli.exchange import EXCHANGE
from lengthen.cli.look import LOOK
from lengthen.cli.work import WORK

COMMANDS = {**WORK, **EVALUATE, **EXCHANGE, **LOOK}
