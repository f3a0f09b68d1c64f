"""The commands by name, in the order of `lengthen --help`."""

from lengthen.cli import (
    compare,
    demo,
    eval,
    export,
    import_model,
    plan,
    prepare,
    recipes,
    report,
    resume,
    sample,
    settings,
    train,
    tune,
    verify,
    watch,
)

COMMANDS = {
    "demo": demo.COMMAND,
    "prepare": prepare.COMMAND,
    "recipes": recipes.COMMAND,
    "settings": settings.COMMAND,
    "train": train.COMMAND,
    "resume": resume.COMMAND,
    "compare": compare.COMMAND,
    "tune": tune.COMMAND,
    "eval": eval.COMMAND,
    "export": export.COMMAND,
    "import": import_model.COMMAND,
    "plan": plan.COMMAND,
    "report": report.COMMAND,
    "watch": watch.COMMAND,
    "sample": sample.COMMAND,
    "verify": verify.COMMAND,
}
