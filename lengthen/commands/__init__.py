"""What each subcommand is called with, and what it calls.

Nothing heavy is imported before a command needs it.
"""

from lengthen.commands.exchange import EXCHANGE
from lengthen.commands.judge import JUDGE
from lengthen.commands.look import LOOK
from lengthen.commands.work import WORK

COMMANDS = {**WORK, **JUDGE, **EXCHANGE, **LOOK}
