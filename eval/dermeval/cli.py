"""The command ``dermeval``: judges and uses encoders. Heavy modules are imported only where needed."""

from collections.abc import Sequence

from dermssl import commandline
from dermssl.commandline import Command

COMMANDS = (
    Command("embed", "encoder + dataset folder -> embeddings folder", "features.embed", "EmbedOptions", "out"),
    Command(
        "import-embeddings",
        "features made by another program -> embeddings folder",
        "features.import_embeddings",
        "ImportOptions",
        "out",
    ),
    Command("knn", "weighted kNN on frozen features, by patient", "probes.knn", "KnnOptions", "out"),
    Command("linear", "logistic regression on frozen features, by patient", "probes.linear", "LinearOptions", "out"),
    Command(
        "finetune", "the encoder trained on a target, judged by patient", "probes.finetune", "FinetuneOptions", "out"
    ),
    Command(
        "evaluate",
        "a data set's published protocol, with per-group tables",
        "probes.evaluate",
        "EvaluateOptions",
        "out",
    ),
    Command("compare", "encoders side by side, with paired differences", "probes.compare", "CompareOptions", "out"),
    Command("index", "embeddings folder -> search index", "retrieval.index", "IndexOptions", "out"),
    Command("search", "similar cases of an image, as a table and a contact sheet", "retrieval.search", "SearchOptions"),
    Command(
        "retrieval",
        "retrieval judged: recall, precision, mAP, nDCG, by group",
        "retrieval.retrieval",
        "RetrievalOptions",
    ),
    Command(
        "export",
        "embeddings as embedding-atlas, FiftyOne, LanceDB or TensorBoard opens them",
        "retrieval.export",
        "EmbeddingsExportOptions",
        "out",
    ),
    Command(
        "serve", "similar-case search in the browser, with a JSON API, on this machine", "web.serve", "ServeOptions"
    ),
    Command(
        "leaks", "records that share near-duplicate images, and a repaired split", "leaks.leaks", "LeaksOptions", "out"
    ),
    Command(
        "audit", "near-duplicates, off-topic images and label errors, on one page", "leaks.audit", "AuditOptions", "out"
    ),
    Command("review", "decide about the pairs of an audit in the browser, one key each", "web.review", "ReviewOptions"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``dermeval``; returns the exit code."""
    return commandline.main("dermeval", "Judge and use encoders of skin images.", COMMANDS, argv)
