"""The command ``dermeval``, which judges and uses encoders. A command's own modules are imported when it runs."""

from collections.abc import Sequence

from dermssl import commandline
from dermssl.commandline import Command

COMMANDS = (
    Command("embed", "encoder + dataset folder -> embeddings folder", "features", "EmbedOptions", "out", ranks=True),
    Command(
        "import-embeddings", "features made by another program -> embeddings folder", "features", "ImportOptions", "out"
    ),
    Command("knn", "weighted kNN on frozen features, by patient", "probes", "KnnOptions", "out"),
    Command("linear", "logistic regression on frozen features, by patient", "probes", "LinearOptions", "out"),
    Command("finetune", "an encoder trained on a target, judged by patient", "probes", "FinetuneOptions", "out"),
    Command("evaluate", "a data set's published protocol, with per-group tables", "probes", "EvaluateOptions", "out"),
    Command("compare", "encoders side by side, with paired differences", "probes", "CompareOptions", "out"),
    Command("index", "embeddings folder -> search index", "retrieval", "IndexOptions", "out"),
    Command("search", "cases similar to an image, as a table and a contact sheet", "retrieval", "SearchOptions"),
    Command("retrieval", "retrieval judged: recall, precision, mAP, nDCG, by group", "retrieval", "RetrievalOptions"),
    Command("export", "embeddings for other viewers and for LanceDB", "retrieval", "EmbeddingsExportOptions", "out"),
    Command("serve", "similar-case search in the browser, with a JSON API, on this machine", "web", "ServeOptions"),
    Command("leaks", "near-duplicates across records; a repaired split", "leaks", "LeaksOptions", "out", ranks=True),
    Command("audit", "near-duplicates, off-topic images and label errors, on one page", "leaks", "AuditOptions", "out"),
    Command("review", "decide in the browser about the pairs that an audit found", "web", "ReviewOptions"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dermeval``; returns the exit code."""
    return commandline.main("dermeval", "Judge and use encoders of skin images.", COMMANDS, argv)
