"""What other tools, and earlier versions, call our settings and commands."""

from collections.abc import Mapping

# Ours, with a word where the meaning differs -> theirs, without hyphens and underscores.
SETTINGS = {
    "model.layers": "nlayer nlayers numlayers numhiddenlayers",
    "model.heads": "nhead nheads numheads numattentionheads",
    "model.kv_heads": "numkeyvalueheads nkvheads numquerygroups",
    "model.head_width": "headdim headsize kvchannels",
    "model.mlp_width": "intermediatesize ninner ffnhiddensize dff",
    "model.tied": "tiewordembeddings",
    "model.norm_eps": "rmsnormeps layernormepsilon layernormeps",
    "model.width": "nembd nembed hiddensize dmodel",
    "model.length": "blocksize seqlength seqlen sequencelength maxseqlength maxlength "
    "contextlength contextsize maxpositionembeddings npositions nctx",
    "model.vocabulary": "vocabsize",
    "batch.rows, sequences of one step over all ranks": "batchsize perdevicetrainbatchsize "
    "globalbatchsize trainbatchsize",
    "batch.micro_tokens, tokens of one forward pass": "microbatchsize accumulategradbatches "
    "gradientaccumulationsteps gradaccumsteps",
    "budget.tokens = steps x batch.rows x model.length": "maxiters maxsteps trainiters steps",
    "budget.tokens": "maxtokens trainsamples",
    "budget.epochs": "passes numepochs numtrainepochs maxepochs",
    "optimizer.learning_rate": "lr maxlr",
    "optimizer.min_learning_rate": "minlr",
    "optimizer.kind, adamw or muon": "optim optimname optimizername optimizertype",
    "optimizer.schedule, constant for no fall": "decaylr lrdecaystyle lrschedulertype lrscheduler",
    "optimizer.warmup_steps": "warmupiters lrwarmupiters lrwarmupsteps numwarmupsteps",
    "optimizer.decay_tokens, in tokens": "lrdecayiters",
    "optimizer.clip": "gradclip clipgrad maxgradnorm maxnorm gradientclipval",
    "optimizer.betas, a list of two": "beta1 beta2 adambeta1 adambeta2",
    "evaluation.every_steps": "evalinterval evalsteps interval",
    "evaluation.tokens": "evaliters",
    "saving.every_steps": "saveinterval savesteps alwayssavecheckpoint",
    "run.precision, fp32, bf16 or fp64": "dtype fp16 bf16 mixedprecision",
    "run.recompute": "gradientcheckpointing activationcheckpointing recomputegranularity",
    "run.device": "backend",
    "pacing.start": "mindifficulty",
    "pacing.end": "maxdifficulty",
    "pacing.duration": "totalcurriculumstep",
    "pacing.multiple": "difficultystep",
    "--data, a token store that `lengthen prepare` makes": "dataset traindataset datadir datapath",
    "data.path": "data store",
    "--out": "outputdir outdir save",
    "`lengthen resume RUN`": "resumefromcheckpoint initfrom",
    "run.trackers, tensorboard or wandb": "wandb wandblog wandbproject wandbrunname reportto "
    "tensorboard",
    "`lengthen report RUN` or `lengthen watch RUN`, which read RUN/metrics.jsonl": "loginterval "
    "loggingsteps",
    "`lengthen eval RUN`": "evalonly",
}
OPTIONS = {  # of commands that take no settings
    "sample": {"--prompt": "start", "--tokens": "maxnewtokens", "RUN alone": "outdir"},
    "prepare": {"SOURCE alone, a file or folder of text": "dataset datadir inputfile"},
    "eval": {"RUN alone": "outdir"},
}
COMMANDS = {
    "`lengthen COMMAND --help`": "help",
    "`lengthen demo`, or `lengthen prepare` for a text of your own": "init new",
    "prepare": "tokenize preprocess",
    "train": "fit pretrain run",
    "import, then resume": "finetune",
    "sample": "generate inference",
    "eval": "evaluate benchmark",
}


def other_name(name: str, ours: Mapping[str, str] = SETTINGS, mark: str = "") -> str:
    """Return the hint that gives our name for what others call `name`; empty where none does.

    `mark` goes before the name of a setting: on the command line two hyphens.
    """
    word = name.lower().replace("-", "").replace("_", "")
    found = next((one for one, theirs in ours.items() if word in theirs.split()), "")
    return f"use {mark if found[0].isalpha() else ''}{found}" if found else ""
